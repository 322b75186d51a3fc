"""The live stream: a snapshot first, nobody is waited for, everybody goes at the end."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import WSMsgType
from aiohttp.test_utils import TestClient

from esper_async.nissa import stream as stream_module
from esper_async.nissa.reading import levels
from tests.nissa.conftest import World

Client = TestClient[Any, Any]


async def test_a_reader_gets_a_snapshot_and_then_what_is_sent(client: Client, world: World) -> None:
    async with client.ws_connect("/ws/stream") as socket:
        snapshot = await socket.receive_json()
        assert snapshot["type"] == "snapshot"
        assert snapshot["status"]["status"] == "ready"
        assert snapshot["runs"] == []
        world.context.stream.send({"type": "events", "items": []})
        assert await socket.receive_json() == {"type": "events", "items": []}


async def test_at_the_end_every_reader_is_told_to_go_and_no_new_one_is_let_in(
    client: Client, world: World
) -> None:
    async with client.ws_connect("/ws/stream") as socket:
        await socket.receive_json()
        world.context.stream.close()
        message = await socket.receive()
        assert message.type is WSMsgType.CLOSE
        assert message.data == 1001
    async with client.get("/ws/stream", headers=_UPGRADE) as response:
        assert response.status == 503


async def test_a_reader_that_never_reads_is_dropped_and_the_others_get_everything(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "BACKLOG", 8)
    stalled = await asyncio.open_connection(client.host, client.port)
    lines = [f"GET /ws/stream HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in _UPGRADE.items()]
    stalled[1].write("".join([*lines, "\r\n"]).encode())
    await stalled[0].readuntil(b"\r\n\r\n")
    async with client.ws_connect("/ws/stream", max_msg_size=0) as socket:
        await socket.receive_json()
        assert len(world.context.stream) == 2
        for number in range(40):
            world.context.stream.send({"number": number, "ballast": "x" * 500_000})
            assert json.loads(await socket.receive_str())["number"] == number
        assert len(world.context.stream) == 1
    [sample] = levels(world.context.registry, "nissa.stream.readers_dropped").popitem()[1]
    assert sample.value == 1.0
    stalled[1].close()


async def test_a_number_that_is_not_finite_is_no_message(world: World) -> None:
    with pytest.raises(ValueError, match="JSON"):
        stream_module.encode({"loss": float("nan")})


_UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
