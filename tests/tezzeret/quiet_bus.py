"""A bus in memory: the test delivers to its handler and reads what was published."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import Message

from esper_async.leyline import EventEnvelope


class QuietBus:
    """`failing` publishes raise ConnectionError first."""

    def __init__(self, failing: int = 0) -> None:
        self.handler: Callable[..., Awaitable[None]] | None = None
        self.published: list[Any] = []
        self.failing = failing

    async def consume(self, topic: str, group: str, handler: Any, *, consumer: str) -> None:
        assert (topic, group) == ("kernel_requests", "tezzeret")
        self.handler = handler
        await asyncio.Event().wait()

    async def publish(self, message: Message) -> str:
        if self.failing > 0:
            self.failing -= 1
            raise ConnectionError("redis is away")
        self.published.append(message)
        return "event"

    async def deliver(self, message: Message) -> None:
        assert self.handler is not None
        await self.handler(message, EventEnvelope())
