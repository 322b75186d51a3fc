"""Events to Elasticsearch: the contract with a compatible server (osmem), and a hostile one."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from osmem_server import OsmemServer

from esper_async.nissa.elastic import CURSOR, Elastic, ElasticOptions, ShippingError, document
from esper_async.nissa.event_store import Event, EventStore
from esper_async.nissa.metrics import NissaMetrics
from esper_async.runtime.clock import FakeClock
from esper_async.runtime.metrics import Registry
from tests.nissa.conftest import until


@pytest.fixture
def events(tmp_path: Path) -> Iterator[EventStore]:
    store = EventStore(tmp_path / "events.sqlite", clock=FakeClock())
    store.open()
    yield store
    store.close()


@pytest.fixture(scope="module")
def server() -> Iterator[OsmemServer]:
    running = OsmemServer.start(japanese=False)
    yield running
    running.close()
    assert running.process.stdout is not None
    running.process.stdout.close()


def fill(events: EventStore, count: int) -> None:
    for number in range(count):
        events.add(Event(f"e{number}", 1.7e9 + number, "info", "test", "x", f"word{number}"))
    events.flush()


def elastic(url: str, events: EventStore, clock: FakeClock | None = None) -> Elastic:
    return Elastic(ElasticOptions(url=url), events, metrics=NissaMetrics(Registry()), clock=clock)


async def search(url: str, words: str) -> list[dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{url}/esper-events/_search", params={"q": words, "size": "50"}) as answer,
    ):
        return [hit["_source"] for hit in (await answer.json())["hits"]["hits"]]


async def test_a_compatible_server_takes_events_once_and_finds_them(
    server: OsmemServer, events: EventStore
) -> None:
    fill(events, 3)
    shipper = elastic(server.url, events)
    shipper.retention = "none"  # osmem has no data streams: events go into an index of that name
    running = asyncio.create_task(shipper.run())
    await until(lambda: events.cursor(CURSOR) == 3)
    running.cancel()
    await asyncio.wait([running])
    events.set_cursor(CURSOR, 0)  # as after a crash between sending and remembering
    async with aiohttp.ClientSession() as session:
        assert await elastic(server.url, events).ship(session) == 3
    found = await search(server.url, "source:test")
    assert sorted(each["uid"] for each in found) == ["e0", "e1", "e2"]
    assert [each["uid"] for each in await search(server.url, "message:word1")] == ["e1"]
    assert found[0]["@timestamp"].startswith("2023-11-14T")


async def test_one_that_is_refused_is_set_aside_and_the_others_go_on(
    server: OsmemServer, events: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    events.add(Event("f1", 1.7e9, "info", "refusal", "x"))
    events.add(Event("f2", 1.7e9, "info", "refusal", "bad"))
    events.add(Event("f3", 1.7e9, "info", "refusal", "x"))
    events.flush()

    def spoilt(event: Any) -> dict[str, Any]:
        made = document(event)
        return {**made, "@timestamp": "no time"} if event["name"] == "bad" else made

    monkeypatch.setattr("esper_async.nissa.elastic.document", spoilt)
    shipper = elastic(server.url, events)
    async with aiohttp.ClientSession() as session:
        assert await shipper.ship(session) == 3
    [aside] = events.aside()
    assert aside["name"] == "bad"
    assert "400" in aside["reason"]
    assert sorted(each["uid"] for each in await search(server.url, "source:refusal")) == [
        "f1",
        "f3",
    ]


class Hostile:
    """A server whose answers to `_bulk` are given beforehand; then it takes everything."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.asked: list[list[str]] = []
        self.prepared: list[tuple[str, dict[str, Any]]] = []
        self.knows_lifecycle = True

    async def bulk(self, request: web.Request) -> web.Response:
        lines = (await request.text()).splitlines()
        uids = [json.loads(each)["create"]["_id"] for each in lines[::2]]
        self.asked.append(uids)
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, web.Response):
            return answer
        statuses = answer or [201] * len(uids)
        items = [
            {"create": {"_id": uid, "status": code}}
            for uid, code in zip(uids, statuses, strict=True)
        ]
        return web.json_response({"errors": True, "items": items})

    async def prepare(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.prepared.append((request.path, body))
        knows = self.knows_lifecycle or "lifecycle" not in body.get("template", {})
        return web.json_response({"acknowledged": knows}, status=200 if knows else 400)


@pytest.fixture
async def hostile() -> AsyncIterator[tuple[Hostile, str]]:
    made, app = Hostile(), web.Application()
    app.router.add_post("/_bulk", made.bulk)
    app.router.add_put("/{path:.*}", made.prepare)
    async with TestServer(app) as server:
        yield made, str(server.make_url("/"))


async def test_single_items_that_have_no_room_are_sent_again_alone(
    hostile: tuple[Hostile, str], events: EventStore
) -> None:
    server, url = hostile
    fill(events, 3)
    server.answers = [[201, 429, 201], [429]]
    shipper = elastic(url, events)
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            with pytest.raises(ShippingError, match="no room for 1"):
                await shipper.ship(session)
            assert events.cursor(CURSOR) == 0
        await shipper.ship(session)
        assert events.cursor(CURSOR) == 3
        assert await shipper.ship(session) == 0
    assert server.asked == [["e0", "e1", "e2"], ["e1"], ["e1"]]


async def test_a_server_that_asks_for_a_pause_gets_it(
    hostile: tuple[Hostile, str], events: EventStore
) -> None:
    server, url = hostile
    fill(events, 1)
    server.answers = [web.Response(status=429, headers={"Retry-After": "30"})]
    clock = FakeClock()
    running = asyncio.create_task(elastic(url, events, clock).run())
    await until(lambda: clock.sleepers > 0)
    clock.advance(14.9)  # jitter takes off half of it at most
    await asyncio.sleep(0)
    assert len(server.asked) == 1
    clock.advance(15.1)
    await until(lambda: events.cursor(CURSOR) == 1)
    running.cancel()
    await asyncio.wait([running])
    assert server.asked == [["e0"], ["e0"]]


@pytest.mark.parametrize("knows_lifecycle", [True, False])
async def test_a_data_stream_is_asked_for_with_the_retention_that_the_server_knows(
    hostile: tuple[Hostile, str], events: EventStore, knows_lifecycle: bool
) -> None:
    server, url = hostile
    server.knows_lifecycle = knows_lifecycle
    shipper = elastic(url, events)
    running = asyncio.create_task(shipper.run())
    await until(lambda: shipper.retention is not None)
    running.cancel()
    await asyncio.wait([running])
    path, template = server.prepared[0]
    assert (path, template["data_stream"]) == ("/_index_template/esper-events", {})
    assert template["template"]["lifecycle"] == {"data_retention": "7d"}
    if knows_lifecycle:
        assert (shipper.retention, len(server.prepared)) == ("lifecycle", 1)
    else:
        assert shipper.retention == "ism"
        assert "lifecycle" not in server.prepared[1][1]["template"]
        policy = server.prepared[2][1]["policy"]
        assert policy["states"][0]["transitions"][0]["conditions"] == {"min_index_age": "7d"}


async def test_nothing_is_lost_while_it_is_away(events: EventStore) -> None:
    fill(events, 2)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ShippingError, match="does not answer"):
            await elastic("http://127.0.0.1:9", events).ship(session)
    assert events.cursor(CURSOR) == 0


@pytest.mark.parametrize(
    "body",
    ["", "null", "[]", "{}", '{"items": 3}', '{"items": [3]}', '{"items": [{"index": {}}]}',
     '{"items": [{"create": {}}]}', '{"items": [{"create": {"status": "x"}}]}',
     '{"items": [{"create": {"status": 1e999}}]}', '{"items": []}', "[" * 5_000],
)  # fmt: skip
async def test_an_answer_that_is_none_is_told_and_tried_again(
    hostile: tuple[Hostile, str], events: EventStore, body: str
) -> None:
    server, url = hostile
    fill(events, 1)
    server.answers = [web.Response(text=body, content_type="application/json")]
    shipper = elastic(url, events)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ShippingError, match="_bulk"):
            await shipper.ship(session)
        assert await shipper.ship(session) == 1
