"""The supervisor's bus, whichever is open: services are made before it, and outlive a restart."""

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from esper_async.leyline.v1.enums_pb2 import MessagePriority
from esper_async.oona.bus import Bus, Handler


class CurrentBus:
    """Pass publish and consume on to `current()`, which raises RuntimeError while there is none."""

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
        """Consume from the open bus until cancelled; as `Bus.consume`."""
        await self._current().consume(topic, group, handler, consumer=consumer, optional=optional)

    def __getattr__(self, name: str) -> Any:
        """Give any other public attribute of the open bus."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._current(), name)
