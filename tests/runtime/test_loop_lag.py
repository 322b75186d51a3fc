"""The loop's lag is measured from outside, and the guilty code is named."""

import asyncio
import threading
import time

from esper_async.runtime.loop_lag import LoopLag


def a_blocking_call() -> None:
    time.sleep(0.3)


def a_deep_call(depth: int) -> None:
    a_deep_call(depth - 1) if depth else a_blocking_call()


async def test_a_blocked_loop_is_reported_with_the_guilty_stack() -> None:
    reported: list[tuple[float, str]] = []
    lag = LoopLag(
        period_s=0.01, stall_s=0.05, on_stall=lambda s, stack: reported.append((s, stack))
    )
    lag.start(asyncio.get_running_loop())
    try:
        async with asyncio.timeout(10):
            while lag.last_s == 0.0:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            a_deep_call(60)
            while not reported:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    finally:
        lag.stop()
    seconds, stack = reported[0]
    assert seconds >= 0.05
    assert "in a_blocking_call" in stack
    assert len(stack) < 2_000  # an event's text is cut there
    assert lag.worst_s >= seconds


async def test_a_loop_that_stays_stuck_is_given_up_once_with_its_stack() -> None:
    given_up: list[tuple[float, str]] = []
    told = threading.Event()

    def give_up(seconds: float, stack: str) -> None:
        given_up.append((seconds, stack))
        told.set()

    def a_call_that_never_ends() -> None:
        told.wait(10)

    lag = LoopLag(period_s=0.01, stall_s=0.02, stuck_s=0.1, on_stuck=give_up)
    lag.start(asyncio.get_running_loop())
    try:
        async with asyncio.timeout(10):
            while lag.last_s == 0.0:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        a_call_that_never_ends()
    finally:
        lag.stop()
    [(seconds, stack)] = given_up
    assert seconds >= 0.1
    assert "a_call_that_never_ends" in stack


async def test_an_idle_loop_is_not_reported() -> None:
    reported: list[str] = []
    lags: list[float] = []
    lag = LoopLag(
        period_s=0.002,
        stall_s=5,
        on_lag=lags.append,
        on_stall=lambda _s, stack: reported.append(stack),
    )
    lag.start(asyncio.get_running_loop())
    async with asyncio.timeout(10):
        while len(lags) < 20:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    lag.stop()
    assert reported == []
