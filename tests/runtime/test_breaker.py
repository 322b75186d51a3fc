"""The breaker, case by case and against a naive model."""

import asyncio
import time
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.runtime.breaker import BreakerOpen, CircuitBreaker
from esper_async.runtime.clock import FakeClock


class RefusedError(Exception):
    """What the other side answers when it is down."""


def fail() -> None:
    raise RefusedError


def succeed() -> str:
    return "yes"


def opened(clock: FakeClock, *, failures: int = 3, open_s: float = 30.0) -> CircuitBreaker:
    """Return a breaker that has just opened."""
    breaker = CircuitBreaker("redis", failures=failures, open_s=open_s, clock=clock)
    for _ in range(failures):
        with pytest.raises(RefusedError):
            breaker.call_sync(fail)
    assert breaker.state == "open"
    return breaker


def test_an_open_breaker_refuses_without_calling_and_says_when_to_come_back() -> None:
    clock = FakeClock()
    breaker = opened(clock)
    clock.advance(12)
    with pytest.raises(BreakerOpen, match="redis") as refusal:
        breaker.call_sync(lambda: pytest.fail("the call was made"))
    assert refusal.value.retry_after_s == pytest.approx(18)


def test_a_success_in_between_starts_the_count_over() -> None:
    breaker = CircuitBreaker("x", failures=2, clock=FakeClock())
    for _ in range(5):
        with pytest.raises(RefusedError):
            breaker.call_sync(fail)
        breaker.call_sync(succeed)
    assert breaker.state == "closed"


@pytest.mark.parametrize(("outcome", "state"), [(succeed, "closed"), (fail, "open")])
def test_the_probe_decides(outcome: object, state: str) -> None:
    clock = FakeClock()
    breaker = opened(clock)
    clock.advance(30)
    if outcome is fail:
        with pytest.raises(RefusedError):
            breaker.call_sync(fail)
        assert breaker.retry_after_s == pytest.approx(30)
    else:
        breaker.call_sync(succeed)
    assert breaker.state == state


async def test_half_open_admits_one_of_fifty_concurrent_calls() -> None:
    clock = FakeClock()
    breaker = opened(clock)
    clock.advance(30)
    gate = asyncio.Event()
    calls = 0

    async def probe() -> None:
        nonlocal calls
        calls += 1
        await gate.wait()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_outcome(breaker, probe)) for _ in range(50)]
        await asyncio.sleep(0)
        assert breaker.state == "half_open"
        gate.set()
    assert calls == 1
    assert sorted(task.result() for task in tasks) == ["done"] + ["refused"] * 49
    assert breaker.state == "closed"


async def _outcome(breaker: CircuitBreaker, function: object) -> str:
    try:
        await breaker.call(function)  # type: ignore[arg-type]
    except BreakerOpen:
        return "refused"
    return "done"


async def test_a_cancelled_probe_counts_neither_way_and_frees_its_place() -> None:
    clock = FakeClock()
    breaker = opened(clock)
    clock.advance(30)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await breaker.call(asyncio.Event().wait)
    assert breaker.state == "half_open"
    assert breaker.call_sync(succeed) == "yes"
    assert breaker.state == "closed"


async def test_a_call_over_its_timeout_fails_and_counts() -> None:
    breaker = CircuitBreaker("x", failures=1, timeout_s=0.01, clock=FakeClock())
    with pytest.raises(TimeoutError):
        await breaker.call(asyncio.Event().wait)
    assert breaker.state == "open"


def test_a_synchronous_call_that_took_too_long_returns_and_counts() -> None:
    clock = FakeClock()
    breaker = CircuitBreaker("x", failures=1, timeout_s=1.0, clock=clock)
    assert breaker.call_sync(lambda: clock.advance(2)) is None
    assert breaker.state == "open"


async def test_a_late_result_of_an_older_generation_does_not_count() -> None:
    clock = FakeClock()
    breaker = CircuitBreaker("x", failures=1, open_s=10, clock=clock)
    gate = asyncio.Event()

    async def late() -> None:
        await gate.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(breaker.call(late))
        await asyncio.sleep(0)
        with pytest.raises(RefusedError):
            breaker.call_sync(fail)
        gate.set()
    assert breaker.state == "open", "an answer from before the failure closed the breaker"


def test_errors_that_do_not_speak_against_the_other_side_are_not_counted() -> None:
    breaker = CircuitBreaker(
        "x", failures=1, clock=FakeClock(), is_failure=lambda e: isinstance(e, OSError)
    )
    with pytest.raises(RefusedError):
        breaker.call_sync(fail)
    assert breaker.state == "closed"


def test_every_transition_is_announced_once() -> None:
    clock = FakeClock()
    seen: list[tuple[str, str, str]] = []
    breaker = CircuitBreaker(
        "x", failures=1, open_s=5, clock=clock, on_transition=lambda *move: seen.append(move)
    )
    with pytest.raises(RefusedError):
        breaker.call_sync(fail)
    clock.advance(5)
    breaker.call_sync(succeed)
    assert seen == [
        ("x", "closed", "open"),
        ("x", "open", "half_open"),
        ("x", "half_open", "closed"),
    ]


class NaiveBreaker:
    """The rules, written down as plainly as they can be: one call at a time."""

    def __init__(self, failures: int, open_s: float) -> None:
        self.failures, self.open_s = failures, open_s
        self.history: list[bool] = []
        self.opened_at: float | None = None

    def call(self, now: float, ok: bool) -> Literal["refused", "ok", "failed"]:
        if self.opened_at is not None and now - self.opened_at < self.open_s:
            return "refused"
        probing = self.opened_at is not None
        self.history.append(ok)
        if ok:
            self.opened_at = None
            self.history = []
        elif probing or (
            not any(self.history[-self.failures :]) and (len(self.history) >= self.failures)
        ):
            self.opened_at = now
            self.history = []
        return "ok" if ok else "failed"


@settings(max_examples=300, deadline=None)
@given(
    failures=st.integers(1, 4),
    open_s=st.integers(1, 20),
    events=st.lists(
        st.tuples(st.integers(0, 12), st.booleans(), st.booleans()), min_size=1, max_size=60
    ),
)
def test_the_breaker_agrees_with_a_naive_model(
    failures: int, open_s: int, events: list[tuple[int, bool, bool]]
) -> None:
    clock = FakeClock()
    breaker = CircuitBreaker("x", failures=failures, open_s=float(open_s), clock=clock)
    model = NaiveBreaker(failures, float(open_s))
    loop = asyncio.new_event_loop()

    async def asynchronously(ok: bool) -> None:
        if not ok:
            raise RefusedError

    def synchronously(ok: bool) -> None:
        if not ok:
            raise RefusedError

    try:
        for wait, ok, use_async in events:
            clock.advance(float(wait))
            try:
                if use_async:
                    loop.run_until_complete(breaker.call(asynchronously, ok))
                else:
                    breaker.call_sync(synchronously, ok)
                got = "ok"
            except BreakerOpen:
                got = "refused"
            except RefusedError:
                got = "failed"
            assert got == model.call(clock.monotonic(), ok)
    finally:
        loop.close()


def test_a_closed_breaker_costs_little() -> None:
    breaker = CircuitBreaker("x")

    def nothing() -> None:
        return None

    def best_of(function: object, *arguments: object) -> float:
        best = float("inf")
        for _ in range(5):
            started = time.perf_counter()
            for _ in range(20_000):
                function(*arguments)  # type: ignore[operator]
            best = min(best, (time.perf_counter() - started) / 20_000)
        return best

    overhead_s = best_of(breaker.call_sync, nothing) - best_of(nothing)
    assert overhead_s < 5e-6, f"{overhead_s * 1e6:.2f} us a call"
