"""A line to Redis: replies in order, small writes gathered, nothing that hangs."""

import asyncio
from collections.abc import AsyncIterator
from unittest import mock

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from esper_async.oona import EmbeddedServer
from esper_async.oona.connection import Client
from esper_async.oona.line import FLUSH_BYTES, Line, open_line
from esper_async.oona.resp import pack, pack_add
from tests.oona.conftest import until


@pytest.fixture
async def line(server: EmbeddedServer) -> AsyncIterator[Line]:
    opened = await open_line(server.url, timeout_s=5.0, linger_s=0.2)
    yield opened
    await opened.aclose()


async def test_replies_come_back_in_order_whoever_asked(line: Line) -> None:
    asked = [line.call(pack("ECHO", n), pack("ECHO", -n), timeout_s=5.0) for n in range(50)]
    assert await asyncio.gather(*asked) == [[b"%d" % n, b"%d" % -n] for n in range(50)]


async def test_what_it_packs_is_what_redis_reads(line: Line, client: Client) -> None:
    wire = bytes(range(256)) + b"\r\n"
    await line.call(pack_add("s", wire), timeout_s=5.0)
    ((_, fields),) = await client.xrange("s")
    assert fields == {b"e": wire}


async def test_an_error_among_the_replies_is_raised_and_the_line_goes_on(line: Line) -> None:
    with pytest.raises(ResponseError, match="unknown command"):
        await line.call(pack("PING"), pack("NONSENSE"), pack("PING"), timeout_s=5.0)
    assert await line.call(pack("PING"), timeout_s=5.0) == [b"PONG"]


async def test_small_writes_wait_for_the_answer_on_its_way_and_go_out_together(line: Line) -> None:
    with mock.patch.object(line._transport, "write", wraps=line._transport.write) as write:
        first = line.send(pack("PING"), 1, timeout_s=5.0)
        await asyncio.sleep(0)  # the first is out
        rest = [line.send(pack("PING"), 1, timeout_s=5.0) for _ in range(20)]
        await asyncio.gather(first, *rest)
        assert write.call_count == 2


async def test_the_linger_is_bounded_in_time_and_size(line: Line) -> None:
    loop = asyncio.get_running_loop()
    blocked = line.send(pack("BLPOP", "nothing", 0), 1, timeout_s=30.0)
    await asyncio.sleep(0)
    with mock.patch.object(line._transport, "write", wraps=line._transport.write) as write:
        started = loop.time()
        later = line.send(pack("PING"), 1, timeout_s=30.0)
        await until(lambda: write.call_count == 1)
        assert loop.time() - started >= 0.15
        big = line.send(pack("ECHO", bytes(FLUSH_BYTES)), 1, timeout_s=30.0)
        assert write.call_count == 2  # at once
    for future in (blocked, later, big):
        future.cancel()


async def test_an_overdue_answer_breaks_the_line_for_all_who_wait(
    server: EmbeddedServer, line: Line
) -> None:
    server.signal(19)  # type: ignore[arg-type]
    try:
        asked = [asyncio.create_task(line.call(pack("PING"), timeout_s=0.1)) for _ in range(3)]
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(answer, TimeoutError)
    finally:
        server.signal(18)  # type: ignore[arg-type]
    with pytest.raises(RedisConnectionError, match="gone"):
        await line.call(pack("PING"), timeout_s=1.0)


async def test_a_killed_server_fails_what_is_on_its_way(server: EmbeddedServer, line: Line) -> None:
    blocked = line.send(pack("BLPOP", "nothing", 0), 1, timeout_s=30.0)
    await asyncio.sleep(0)
    server.signal(9)  # type: ignore[arg-type]
    with pytest.raises((RedisConnectionError, OSError)):
        await asyncio.wait_for(blocked, 10.0)
    assert not line.is_open


async def test_a_cancelled_caller_takes_nobody_elses_reply(line: Line) -> None:
    given_up = asyncio.create_task(line.call(pack("ECHO", "a"), timeout_s=5.0))
    await asyncio.sleep(0)
    given_up.cancel()
    assert await line.call(pack("ECHO", "b"), timeout_s=5.0) == [b"b"]


async def test_something_that_does_not_speak_redis_is_left(line: Line) -> None:
    asked = line.send(pack("BLPOP", "nothing", 0), 1, timeout_s=30.0)
    line.data_received(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(RedisConnectionError):
        await asked
