"""The probes answer for the tree; mounted routes come and go; errors are problems."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from esper_async.runtime.clock import SystemClock
from esper_async.supervisor.declared import Declaration
from esper_async.supervisor.errors import StartError
from esper_async.supervisor.http import HttpListener, Middleware, is_loopback
from esper_async.supervisor.tree import Tree
from tests.supervisor.puppets import Puppet

BY = web.RequestKey("by", str)


@asynccontextmanager
async def serving(*others: Puppet) -> AsyncIterator[tuple[HttpListener, aiohttp.ClientSession]]:
    http = HttpListener("127.0.0.1", 0)
    declared = [Declaration("http", after=()), *(other.declared for other in others)]
    tree = Tree([http, *others], declared, clock=SystemClock(), source=random.Random(0))
    http.observe(tree)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(tree.run(5.0))
        await tree.cells["http"].wait_ready()
        async with aiohttp.ClientSession(http.url) as client:
            yield http, client
        tree.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_the_probes_speak_of_the_tree() -> None:
    essential = Puppet("engine", ("http",), essential=True)
    async with serving(essential) as (_, client):
        await until(lambda: essential.lives == 1)
        for path in ("/healthz", "/livez", "/startupz"):
            assert (await client.get(path)).status == 200, path
        answer = await client.get("/readyz")
        body = await answer.json()
        assert answer.status == 200
        assert body["status"] == "ready"
        engine = body["services"]["engine"]
        assert (engine["state"], engine["restarts"]) == ("ready", 0)
        assert (engine["breakers"], engine["detail"]) == ({"disk": "closed"}, {"lives": 1})
        assert engine["since"] > 0


async def test_not_ready_is_503_and_still_alive() -> None:
    class Slow(Puppet):
        async def run(self, ready: Callable[[], None]) -> None:
            await asyncio.Event().wait()

    async with serving(Slow("engine", essential=True)) as (_, client):
        assert (await client.get("/healthz")).status == 200
        assert (await client.get("/startupz")).status == 503
        answer = await client.get("/readyz")
        assert answer.status == 503
        assert (await answer.json())["services"]["engine"]["state"] == "starting"


async def test_routes_are_there_while_mounted_and_503_before_and_after() -> None:
    async def hello(request: web.Request) -> web.Response:
        return web.json_response({"id": request.match_info["id"], "by": request[BY]})

    async def stamp(
        request: web.Request,
        handler: Callable[[web.Request], object],
    ) -> web.StreamResponse:
        request[BY] = "stamp"
        return await handler(request)  # type: ignore[misc, no-any-return]

    middleware: Middleware = stamp  # type: ignore[assignment]
    async with serving() as (http, client):
        down = await client.get("/api/things/7")
        assert (down.status, down.content_type) == (503, "application/problem+json")
        with http.mounted([web.get("/api/things/{id}", hello)], middlewares=[middleware]):
            answer = await client.get("/api/things/7")
            assert (answer.status, await answer.json()) == (200, {"id": "7", "by": "stamp"})
            missing = await client.get("/api/nothing")
            assert missing.status == 404
            assert (await missing.json())["detail"] == "there is nothing at /api/nothing"
            wrong = await client.post("/api/things/7")
            assert (wrong.status, wrong.headers["Allow"]) == (405, "GET,HEAD")
        assert (await client.get("/api/things/7")).status == 503


async def test_a_taken_port_is_a_failure_to_start_that_names_the_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        http = HttpListener("127.0.0.1", taken.getsockname()[1])
        declared = [Declaration("http", after=())]
        tree = Tree([http], declared, clock=SystemClock(), source=random.Random(0))
        with pytest.raises(StartError, match=r"port \d+ on 127.0.0.1 is taken.*--port"):
            await tree.run(5.0)


def test_loopback_is_told_from_the_rest() -> None:
    assert [is_loopback(h) for h in ("127.0.0.1", "::1", "localhost")] == [True] * 3
    assert [is_loopback(h) for h in ("0.0.0.0", "10.0.0.1", "::", "example.org")] == [False] * 4
