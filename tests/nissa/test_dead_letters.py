"""The API's dead letters over a real bus: what is answered has happened there."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.leyline import Alert, EventEnvelope, Signer, wrap
from esper_async.leyline.registry import PAYLOADS
from esper_async.nissa.api.dead_letters import _contents
from esper_async.nissa.app import build_app
from esper_async.oona import Bus, EmbeddedServer
from esper_async.oona.connection import Client, connect
from esper_async.oona.dead_letters import DeadLetter, DeadLetters, dead_letter_fields
from esper_async.oona.streams import DEAD_LETTERS, FORGED_LETTERS, normal_lane
from esper_async.testing.redis import running_redis
from tests.nissa.conftest import BEARER, World

Api = TestClient[Any, Any]
SIGNER = Signer(bytes(range(32)))
PATH = "/api/dead-letters"


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedServer]:
    async with running_redis() as running:
        yield running


@pytest.fixture
async def redis(server: EmbeddedServer) -> AsyncIterator[Client]:
    client = connect(server.url, timeout_s=5.0)
    yield client
    await client.aclose()


@pytest.fixture
async def api(world: World, redis: Client) -> AsyncIterator[Api]:
    context = dataclasses.replace(world.context, dead_letters=lambda: DeadLetters(redis))
    async with TestClient(TestServer(build_app(context))) as client:
        yield client


async def put(redis: Client, *numbers: int, topic: str = "alerts", forged: bool = False) -> None:
    for number in numbers:
        alert = Alert(version=1, alert_id=f"a{number}", name="test")
        fields = dead_letter_fields(
            wrap(alert, source="x", signer=SIGNER), topic=topic, stream=normal_lane(topic),
            group="nissa", entry_id="1-0", reason="why", attempts=3,
        )  # fmt: skip
        await redis.xadd(FORGED_LETTERS if forged else DEAD_LETTERS, fields)


async def listed(api: Api, query: str = "") -> list[dict[str, Any]]:
    async with api.get(f"{PATH}{query}") as response:
        assert response.status == 200
        return list(await response.json())


async def change(api: Api, method: str, path: str, **more: Any) -> tuple[int, Any]:
    more.setdefault("headers", BEARER)
    async with api.request(method, path, **more) as response:
        return response.status, await response.json() if response.content_length else None


async def test_one_letter_of_either_kind_is_shown_replayed_and_thrown_away(
    api: Api, redis: Client, server: EmbeddedServer
) -> None:
    await put(redis, 1)
    await put(redis, 2, 3, forged=True)
    first, second, third = [letter["id"] for letter in await listed(api)]
    assert second.startswith("forged-")
    async with api.get(f"{PATH}/{second}") as response:
        assert (await response.json())["payload"]["alert_id"] == "a2"
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def handler(message: Alert, _: object) -> None:
        await seen.put(message.alert_id)

    async with Bus(server.url, signer=SIGNER, source="test") as bus:
        task = asyncio.create_task(bus.consume("alerts", "nissa", handler, consumer="c"))
        assert (await change(api, "POST", f"{PATH}/{second}/replay"))[0] == 202
        assert await asyncio.wait_for(seen.get(), 10) == "a2"
        task.cancel()
        await asyncio.wait([task])
    assert (await change(api, "DELETE", f"{PATH}/{first}"))[0] == 204
    assert [letter["id"] for letter in await listed(api)] == [third]
    for gone in (second, "no-letter", "9-0", ".."):
        assert (await change(api, "POST", f"{PATH}/{gone}/replay"))[0] == 404
        assert (await change(api, "DELETE", f"{PATH}/{gone}"))[0] == 404


async def test_a_letter_that_is_no_envelope_is_shown_as_far_as_it_can_be(
    api: Api, redis: Client
) -> None:
    fields = dead_letter_fields(
        b"\xff\xff not an envelope", topic="alerts", stream=normal_lane("alerts"), group="nissa",
        entry_id="1-0", reason="malformed", attempts=0,
    )  # fmt: skip
    await redis.xadd(DEAD_LETTERS, fields, id="7-0")
    async with api.get(f"{PATH}/7-0") as response:
        shown = await response.json()
    assert (shown["reason"], shown["payload"]) == ("malformed", None)
    assert shown["unreadable"]


async def test_pages_of_one_topic_follow_their_links(api: Api, redis: Client) -> None:
    await put(redis, 1, 2)
    await put(redis, 3, topic="control")
    await put(redis, 4, forged=True)
    pages, path = [], f"{PATH}?topic=alerts&limit=2"
    while path:
        async with api.get(path) as response:
            pages.append([letter["topic"] for letter in await response.json()])
            path = str(response.links["next"]["url"].relative()) if response.links else ""
    assert pages == [["alerts", "alerts"], ["alerts"]]


async def test_all_of_a_topic_or_all_are_replayed_and_purged_by_one_request(
    api: Api, redis: Client
) -> None:
    await put(redis, *range(30))
    await put(redis, 30, forged=True)
    await put(redis, 31, topic="control")
    assert await change(api, "POST", f"{PATH}/replay?topic=alerts") == (202, {"replayed": 31})
    assert await redis.xlen(normal_lane("alerts")) == 31
    assert await change(api, "DELETE", f"{PATH}?topic=alerts") == (200, {"purged": 0})
    assert await change(api, "DELETE", f"{PATH}?topic=control") == (200, {"purged": 1})
    await put(redis, 1, 2)
    assert await change(api, "POST", f"{PATH}/replay?all=true") == (202, {"replayed": 2})
    await put(redis, 1)
    await put(redis, 2, forged=True)
    assert await change(api, "DELETE", f"{PATH}?all=true") == (200, {"purged": 2})
    assert await listed(api) == []


@pytest.mark.parametrize("query", ["", "?topics=alerts", "?topic=alert", "?all=true&topic=alerts"])
async def test_a_request_for_all_says_which_or_changes_nothing(
    query: str, api: Api, redis: Client
) -> None:
    await put(redis, 1)
    for method, path in (("DELETE", PATH), ("POST", f"{PATH}/replay")):
        status, problem = await change(api, method, path + query)
        assert status == 400
        assert "topic" in problem["detail"]
    assert len(await listed(api)) == 1


async def test_changing_all_needs_the_token(api: Api, redis: Client) -> None:
    await put(redis, 1)
    for method, path in (("DELETE", PATH), ("POST", f"{PATH}/replay")):
        assert (await change(api, method, f"{path}?all=true", headers={}))[0] == 401
    assert len(await listed(api)) == 1


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.none() | st.sampled_from(sorted(PAYLOADS)))
def test_whatever_died_can_be_shown(noise: bytes, payload_type: str | None) -> None:
    wire = noise
    if payload_type is not None:
        wire = EventEnvelope(payload_type=payload_type, payload=noise).SerializeToString()
    letter = DeadLetter(
        letter_id="1-0", topic="alerts", stream="s", group="g", entry_id="1-0", reason="why",
        attempts=1, died_at=1.0, wire=wire,
    )  # fmt: skip
    shown = _contents(letter)
    assert json.loads(json.dumps(shown)) == shown
