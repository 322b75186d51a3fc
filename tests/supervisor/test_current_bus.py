"""Who consumes from the current bus outlives the buses."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from esper_async.supervisor.current_bus import CurrentBus


class FakeBus:
    """Open until closed; a handler is called once for each consumer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = asyncio.Event()
        self.consumers = 0

    async def wait_closed(self) -> None:
        await self.closed.wait()

    async def consume(
        self, topic: str, group: str, handler: Callable[[str], None], **_: Any
    ) -> None:
        await self._consume(handler, f"{topic} from {self.name}")

    async def consume_batches(
        self, topic: str, group: str, handler: Callable[[str], None], **_: Any
    ) -> None:
        await self._consume(handler, f"batches of {topic} from {self.name}")

    async def _consume(self, handler: Callable[[str], None], heard: str) -> None:
        self.consumers += 1
        handler(heard)
        try:
            await asyncio.Event().wait()
        finally:
            self.consumers -= 1


class Holder:
    """Whoever opens the buses."""

    bus: FakeBus | None = None

    def __call__(self) -> Any:
        if self.bus is None:
            raise RuntimeError("there is none")
        return self.bus


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.mark.parametrize(("way", "said"), [("consume", ""), ("consume_batches", "batches of ")])
async def test_consuming_waits_for_a_bus_and_goes_on_with_the_next(way: str, said: str) -> None:
    holder, heard = Holder(), list[str]()
    consume = getattr(CurrentBus(holder), way)
    consuming = asyncio.ensure_future(consume("control", "g", heard.append, consumer="c"))
    await asyncio.sleep(0)
    assert not consuming.done()
    first = holder.bus = FakeBus("the first")
    await until(lambda: heard)
    holder.bus = None
    first.closed.set()
    await until(lambda: first.consumers == 0)
    second = holder.bus = FakeBus("the second")
    await until(lambda: len(heard) == 2)
    assert heard == [f"{said}control from the first", f"{said}control from the second"]
    consuming.cancel()
    await asyncio.wait([consuming])
    assert (consuming.cancelled(), second.consumers) == (True, 0)


async def test_what_ends_consuming_is_passed_on() -> None:
    class Broken(FakeBus):
        async def consume(self, *_: Any, **__: Any) -> None:
            raise LookupError("no such topic")

    holder = Holder()
    holder.bus = Broken("it")
    with pytest.raises(LookupError, match="no such topic"):
        await CurrentBus(holder).consume("x", "g", print, consumer="c")  # type: ignore[arg-type]


async def test_publishing_without_a_bus_fails_at_once() -> None:
    with pytest.raises(RuntimeError, match="there is none"):
        await CurrentBus(Holder()).publish(None)  # type: ignore[arg-type]
