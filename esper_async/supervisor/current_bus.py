"""The supervisor's bus, whichever is open: services are made before it, and outlive a restart."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from google.protobuf.message import Message

from esper_async.leyline.v1.enums_pb2 import MessagePriority
from esper_async.oona.bus import Bus
from esper_async.oona.delivery import BatchHandler, Handler

_LOOK_EVERY_S = 0.1


class CurrentBus:
    """Pass publish and consume on to `current()`, which raises RuntimeError while there is none.

    Who consumes need not know: when a bus closes, consuming goes on from the next one.
    """

    def __init__(self, current: Callable[[], Bus]) -> None:
        self._current = current

    async def publish(
        self,
        message: Message,
        *,
        priority: MessagePriority.ValueType | None = None,
        correlation_id: str = "",
        durable: bool | None = None,
        deadline_s: float | None = None,
    ) -> str:
        """Publish on the open bus; as `Bus.publish`."""
        return await self._current().publish(
            message,
            priority=priority,
            correlation_id=correlation_id,
            durable=durable,
            deadline_s=deadline_s,
        )

    async def consume(
        self, topic: str, group: str, handler: Handler, *, consumer: str, optional: bool = False
    ) -> None:
        """Consume from whichever bus is open until cancelled; as `Bus.consume`."""
        await self._from_each(
            lambda bus: bus.consume(topic, group, handler, consumer=consumer, optional=optional)
        )

    async def consume_batches(
        self,
        topic: str,
        group: str,
        handler: BatchHandler,
        *,
        consumer: str,
        optional: bool = False,
    ) -> None:
        """Consume from whichever bus is open until cancelled; as `Bus.consume_batches`."""
        await self._from_each(
            lambda bus: bus.consume_batches(
                topic, group, handler, consumer=consumer, optional=optional
            )
        )

    async def _from_each(self, consume: Callable[[Bus], Coroutine[Any, Any, None]]) -> None:
        while True:
            bus = await self._open()
            consuming = asyncio.ensure_future(consume(bus))
            closing = asyncio.ensure_future(bus.wait_closed())
            tasks = (consuming, closing)
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if consuming.done():
                    return consuming.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    async def _open(self) -> Bus:
        """Wait for a bus: the service that opens it may be starting, or starting again."""
        while True:
            try:
                return self._current()
            except RuntimeError:
                await asyncio.sleep(_LOOK_EVERY_S)

    def __getattr__(self, name: str) -> Any:
        """Give any other public attribute of the open bus."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._current(), name)
