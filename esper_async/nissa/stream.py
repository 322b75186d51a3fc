"""The live stream: a snapshot for each reader, then what changes, and no waiting for anybody.

Messages are encoded once for all readers. A reader has a bounded backlog; one that lets it fill, or
does not take a message within its time, is dropped and counted. It reconnects and gets a snapshot.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import WSCloseCode, web

from esper_async.nissa.metrics import NissaMetrics

BACKLOG = 256
SEND_TIMEOUT_S = 10.0
READERS = 200


class TooManyReadersError(RuntimeError):
    """The stream has as many readers as it takes."""


class _Reader:
    def __init__(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        self.request = request
        self.socket = socket
        self.backlog: asyncio.Queue[str | None] = asyncio.Queue(BACKLOG)
        self.waiting_bytes = 0

    def abort(self) -> None:
        """Cut the connection without the courtesy of a close frame, which might never leave."""
        if self.request.transport is not None:
            self.request.transport.abort()


class Stream:
    """All open WebSockets. All calls from one event loop."""

    def __init__(self, metrics: NissaMetrics) -> None:
        self._metrics = metrics
        self._readers: set[_Reader] = set()
        self._closing = False

    def __len__(self) -> int:
        return len(self._readers)

    def open(self) -> None:
        """Take readers (again)."""
        self._closing = False

    def send(self, message: dict[str, Any]) -> None:
        """Give a message to every reader, now or never."""
        if not self._readers:
            return
        text = encode(message)
        for reader in list(self._readers):
            self._give(reader, text)

    def waiting_bytes(self) -> int:
        """How much is held for readers that have not taken it yet; shared texts count for each."""
        return sum(reader.waiting_bytes for reader in self._readers)

    def close(self) -> None:
        """End every reader's stream; `serve` returns for each. Later readers are refused."""
        self._closing = True
        for reader in self._readers:
            while not reader.backlog.empty():
                reader.backlog.get_nowait()
            reader.backlog.put_nowait(None)

    async def serve(
        self, request: web.Request, snapshot: Callable[[], dict[str, Any]]
    ) -> web.WebSocketResponse:
        """Upgrade the request and feed the reader until either side ends it.

        Raises TooManyReadersError.
        """
        if self._closing or len(self._readers) >= READERS:
            raise TooManyReadersError
        socket = web.WebSocketResponse(timeout=2.0, heartbeat=20.0, compress=False)
        await socket.prepare(request)
        reader = _Reader(request, socket)
        self._readers.add(reader)
        self._give(reader, encode(snapshot()))
        self._metrics.readers.set(len(self._readers))
        try:
            async with asyncio.TaskGroup() as group:
                feeding = group.create_task(self._feed(reader))
                async for _ in socket:
                    pass  # what a reader says is not asked for
                feeding.cancel()
        finally:
            self._readers.discard(reader)
            self._metrics.readers.set(len(self._readers))
        return socket

    def _give(self, reader: _Reader, text: str) -> None:
        try:
            reader.backlog.put_nowait(text)
            reader.waiting_bytes += len(text)
        except asyncio.QueueFull:
            self._drop(reader)

    def _drop(self, reader: _Reader) -> None:
        if reader in self._readers:
            self._readers.discard(reader)
            self._metrics.readers_dropped.add()
            reader.abort()

    async def _feed(self, reader: _Reader) -> None:
        while (text := await reader.backlog.get()) is not None:
            reader.waiting_bytes -= len(text)
            try:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await reader.socket.send_str(text)
            except ConnectionResetError:
                return
            except TimeoutError:
                self._drop(reader)
                return
        await reader.socket.close(code=WSCloseCode.GOING_AWAY)


def encode(message: dict[str, Any]) -> str:
    """JSON without spaces; raises ValueError for a number that is not finite."""
    return json.dumps(message, separators=(",", ":"), allow_nan=False)
