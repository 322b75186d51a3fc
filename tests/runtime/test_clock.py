"""The fake clock moves only when told to, and wakes exactly the sleepers that are due."""

import asyncio

import pytest

from esper_async.runtime.clock import FakeClock


async def test_a_sleeper_wakes_when_its_time_has_come_and_not_before() -> None:
    clock = FakeClock()
    woken: list[str] = []

    async def sleep(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(sleep("late", 3))
        group.create_task(sleep("early", 1))
        await asyncio.sleep(0)
        clock.advance(0.99)
        await asyncio.sleep(0)
        assert woken == []
        clock.advance(0.02)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert woken == ["early"]
        assert clock.sleepers == 1
        clock.advance(10)
    assert woken == ["early", "late"]


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = FakeClock()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await clock.sleep(5)
    assert clock.sleepers == 0


def test_only_the_wall_clock_can_be_stepped_back() -> None:
    clock = FakeClock()
    before = (clock.monotonic(), clock.time())
    clock.step_wall(-100)
    assert (clock.monotonic(), clock.time()) == (before[0], before[1] - 100)
    with pytest.raises(ValueError, match="cannot go back"):
        clock.advance(-1)
