"""One connection to Redis for the hot paths: packed commands out, replies in order.

redis-py opens it, so that every kind of URL, TLS, login and Sentinel work; then its transport is
taken over. Reading a reply through redis-py costs 10 µs and more, here 0.3 µs, and many callers may
have commands on their way at the same time.

Small writes are gathered: the first goes out at the end of the loop's turn, and while an answer is
awaited others wait for it, for `linger_s` at most, to go out together.
"""

import asyncio
from collections import deque
from typing import Any, Final

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from esper_async.oona.connection import Client, connect_once

FLUSH_BYTES = 64 * 1024
_NOT_YET: Final = object()


class _Request:
    """Commands sent together; `replies` fills up, and then they are the future's result."""

    __slots__ = ("count", "deadline", "future", "replies")

    def __init__(self, future: "asyncio.Future[list[Any]]", count: int, deadline: float) -> None:
        self.future = future
        self.count = count
        self.deadline = deadline
        self.replies: list[Any] = []


class Line(asyncio.Protocol):
    """Opened by `open_line`, closed by `aclose`. Used from one event loop.

    When the connection breaks, or an answer is overdue, everything on its way fails, and so does
    whatever is sent afterwards: open another.
    """

    def __init__(self, client: Client, *, linger_s: float) -> None:
        self._client = client
        connection: Any = client.connection
        self._connection = connection
        # redis-py keeps its stream to itself; a test holds that it still lies here
        self._transport: asyncio.Transport = connection._writer.transport
        self._linger_s = linger_s
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(
            replyError=ResponseError,
            protocolError=RedisConnectionError,
            notEnoughData=_NOT_YET,
        )
        self._waiting: deque[_Request] = deque()
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self._flushing: asyncio.Handle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._lost: Exception | None = None
        self._transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent."""
        return self._lost is None

    async def call(self, *commands: bytes, timeout_s: float) -> list[Any]:
        """Send packed commands together and return their replies.

        Raises the first reply that is an error, TimeoutError past `timeout_s`, and what broke the
        connection. Cancelling gives up the reply, not the commands.
        """
        replies = await self.send(b"".join(commands), len(commands), timeout_s=timeout_s)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def send(self, packed: bytes, count: int, *, timeout_s: float) -> "asyncio.Future[list[Any]]":
        """Send `count` packed commands; the future has their replies, errors among them."""
        if self._lost is not None:
            raise RedisConnectionError(f"the connection is gone: {self._lost}")
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        idle = not self._waiting
        self._waiting.append(_Request(future, count, self._loop.time() + timeout_s))
        self._outgoing.append(packed)
        self._outgoing_bytes += len(packed)
        if self._outgoing_bytes >= FLUSH_BYTES:
            self._flush()
        elif self._flushing is None:
            gather = not idle and self._linger_s > 0
            self._flushing = (
                self._loop.call_later(self._linger_s, self._flush)
                if gather
                else self._loop.call_soon(self._flush)
            )
        if self._alarm is None:
            self._set_alarm()
        return future

    async def aclose(self) -> None:
        """Close the connection; what is on its way fails. Idempotent."""
        self._fail(RedisConnectionError("the connection was closed"))
        await self._connection.disconnect(nowait=True)  # its own reader hears no end of file
        await self._client.aclose()

    def data_received(self, data: bytes) -> None:
        """Take in replies and hand each request its own."""
        try:
            self._reader.feed(data)
            while self._waiting:
                request = self._waiting[0]
                replies, missing = request.replies, request.count - len(request.replies)
                for _ in range(missing):
                    reply = self._reader.gets()
                    if reply is _NOT_YET:
                        return
                    replies.append(reply)
                self._waiting.popleft()
                if not request.future.done():
                    request.future.set_result(replies)
        except RedisConnectionError as error:  # what came is not Redis's protocol
            self._fail(error)
        finally:
            if self._outgoing:
                self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail everything on its way."""
        self._fail(error or RedisConnectionError("redis closed the connection"))

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if self._lost is None and self._outgoing:
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()
        self._outgoing_bytes = 0

    def _set_alarm(self) -> None:
        self._alarm = self._loop.call_at(self._waiting[0].deadline, self._ring)

    def _ring(self) -> None:
        """Give the connection up when its oldest request is overdue."""
        self._alarm = None
        if not self._waiting:
            return
        if self._waiting[0].deadline <= self._loop.time():
            self._fail(TimeoutError("redis did not answer in time"))
        else:
            self._set_alarm()

    def _fail(self, error: Exception) -> None:
        if self._lost is not None:
            return
        self._lost = error
        self._transport.abort()
        for handle in (self._flushing, self._alarm):
            if handle is not None:
                handle.cancel()
        self._outgoing.clear()
        for request in self._waiting:
            if not request.future.done():
                request.future.set_exception(error)
        self._waiting.clear()


async def open_line(url: str, *, timeout_s: float, linger_s: float = 0.0) -> Line:
    """Connect within `timeout_s`. Raises TimeoutError and what redis-py raises."""
    client = connect_once(url, timeout_s=timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            await client.initialize()
            await client.ping()
    except BaseException:
        await client.aclose()
        raise
    return Line(client, linger_s=linger_s)
