"""The probe of an event loop names who held it up."""

import asyncio
import gc
import time

import pytest

from esper_async.study.bench import loop_probe
from esper_async.study.bench.loop_probe import Tick, ticking


def holds_the_loop() -> None:
    time.sleep(5 * loop_probe.OVERDUE_S)


async def ticks_around(deed: str) -> list[Tick]:
    """The ticks of a loop in which one callback does a deed."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    async with ticking() as ticks:
        while not ticks:  # noqa: ASYNC110 - a list tells nobody
            await asyncio.sleep(loop_probe.TICK_S)
        loop.call_soon({"hold": holds_the_loop, "collect": gc.collect}[deed])
        loop.call_later(2 * loop_probe.TICK_S, done.set)
        await done.wait()
        many = len(ticks)
        while len(ticks) < many + 2:  # noqa: ASYNC110
            await asyncio.sleep(loop_probe.TICK_S)
    return ticks


async def test_a_callback_that_holds_the_loop_is_named_with_its_tick() -> None:
    worst = max(await ticks_around("hold"), key=lambda tick: tick.late_ms)
    assert worst.late_ms > 1e3 * loop_probe.OVERDUE_S
    assert worst.own_ms <= worst.late_ms
    assert "holds_the_loop for" in worst.guilty


async def test_the_collector_is_named_when_it_holds_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_probe, "OVERDUE_S", 0.0)
    guilty = " ".join(tick.guilty for tick in await ticks_around("collect"))
    assert "collecting garbage of generation 2 for" in guilty


async def test_a_loop_that_nobody_watches_any_more_is_left_as_it_was() -> None:
    before = asyncio.Handle._run
    callbacks = list(gc.callbacks)
    async with ticking():
        assert asyncio.Handle._run is not before
    assert asyncio.Handle._run is before
    assert gc.callbacks == callbacks
