"""The breaker, case by case."""

import asyncio

import pytest

from esper_async.runtime.breaker import BreakerOpen, BreakerPolicy, CircuitBreaker
from esper_async.runtime.breakers import Breakers
from esper_async.runtime.clock import FakeClock
from esper_async.runtime.metrics import Registry


class RefusedError(Exception):
    """What the other side answers when it is down."""


def fail() -> None:
    raise RefusedError


def succeed() -> str:
    return "yes"


def breaker_of(clock: FakeClock | None = None, **policy: float) -> CircuitBreaker:
    return CircuitBreaker("redis", BreakerPolicy(**policy), clock=clock or FakeClock())  # type: ignore[arg-type]


def failing(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(RefusedError):
            breaker.call_sync(fail)


def opened(clock: FakeClock, **policy: float) -> CircuitBreaker:
    """Return a breaker that has just opened."""
    breaker = breaker_of(clock, **policy)
    failing(breaker, breaker.policy.failures)
    assert breaker.state == "open"
    return breaker


def test_an_open_breaker_refuses_without_calling_and_says_when_to_come_back() -> None:
    clock = FakeClock()
    breaker = opened(clock)
    clock.advance(12)
    with pytest.raises(BreakerOpen, match="redis") as refusal:
        breaker.call_sync(lambda: pytest.fail("the call was made"))
    assert refusal.value.retry_after_s == pytest.approx(18)


def test_a_success_in_between_starts_the_row_over() -> None:
    breaker = breaker_of(failures=2, minimum_calls=1_000)
    for _ in range(5):
        failing(breaker)
        breaker.call_sync(succeed)
    assert breaker.state == "closed"


def test_it_opens_when_the_share_of_failures_is_reached_and_not_before_the_minimum() -> None:
    breaker = breaker_of(failures=99, failure_ratio=0.5, minimum_calls=6)
    for _ in range(2):
        failing(breaker)
        breaker.call_sync(succeed)
    failing(breaker)
    assert breaker.state == "closed", "five calls are fewer than the minimum of six"
    failing(breaker)
    assert breaker.state == "open"


def test_failures_that_have_left_the_window_do_not_count() -> None:
    clock = FakeClock()
    breaker = breaker_of(clock, failures=99, failure_ratio=0.5, minimum_calls=4, window_s=10)
    failing(breaker, 3)
    clock.advance(11)
    failing(breaker)
    assert breaker.state == "closed"


def test_a_busy_breaker_opens_after_a_row_of_failures_whatever_the_share() -> None:
    breaker = breaker_of(failures=3)
    for _ in range(1_000):
        breaker.call_sync(succeed)
    failing(breaker, 3)
    assert breaker.state == "open"


@pytest.mark.parametrize(("outcome", "state"), [("answers", "closed"), ("fails", "open")])
def test_the_probe_decides(outcome: str, state: str) -> None:
    clock = FakeClock()
    breaker = opened(clock)
    clock.advance(30)
    if outcome == "fails":
        failing(breaker)
        assert breaker.retry_after_s == pytest.approx(30)
    else:
        breaker.call_sync(succeed)
    assert breaker.state == state


@pytest.mark.parametrize("probes", [1, 3])
async def test_half_open_admits_the_probes_of_fifty_concurrent_calls(probes: int) -> None:
    clock = FakeClock()
    breaker = opened(clock, probes=probes)
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
    assert calls == probes
    assert sorted(task.result() for task in tasks) == ["done"] * probes + ["refused"] * (
        50 - probes
    )
    assert breaker.state == "closed"


async def _outcome(breaker: CircuitBreaker, function: object) -> str:
    try:
        await breaker.call(function)  # type: ignore[arg-type]
    except BreakerOpen:
        return "refused"
    return "done"


async def test_who_is_refused_beside_a_probe_is_told_when_another_will_be_admitted() -> None:
    clock = FakeClock()
    breaker = opened(clock, open_s=10)
    clock.advance(10)
    silent = asyncio.ensure_future(breaker.call(asyncio.Event().wait))
    await asyncio.sleep(0)
    clock.advance(4)
    with pytest.raises(BreakerOpen) as refusal:
        breaker.call_sync(succeed)
    assert refusal.value.retry_after_s == pytest.approx(6)
    clock.advance(6)
    assert breaker.call_sync(succeed) == "yes", "a silent probe kept its place for ever"
    assert breaker.state == "closed"
    silent.cancel()
    await asyncio.wait([silent])


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
    breaker = breaker_of(failures=1, timeout_s=0.01)
    with pytest.raises(TimeoutError):
        await breaker.call(asyncio.Event().wait)
    assert breaker.state == "open"


@pytest.mark.parametrize("bound", ["timeout_s", "slow_s"])
def test_a_slow_call_returns_its_result_and_counts_as_a_failure(bound: str) -> None:
    clock = FakeClock()
    breaker = breaker_of(clock, failures=1, **{bound: 1.0})
    assert breaker.call_sync(lambda: clock.advance(2)) is None
    assert breaker.state == "open"


async def test_a_late_result_of_an_older_generation_does_not_count() -> None:
    clock = FakeClock()
    breaker = breaker_of(clock, failures=1, open_s=10)
    gate = asyncio.Event()

    async def late() -> None:
        await gate.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(breaker.call(late))
        await asyncio.sleep(0)
        failing(breaker)
        gate.set()
    assert breaker.state == "open", "an answer from before the failure closed the breaker"


def test_errors_that_do_not_speak_against_the_other_side_are_not_counted() -> None:
    breaker = CircuitBreaker(
        "x",
        BreakerPolicy(failures=1),
        clock=FakeClock(),
        is_failure=lambda e: isinstance(e, OSError),
    )
    failing(breaker)
    assert breaker.state == "closed"


def test_a_probe_that_meets_such_an_error_has_reached_the_other_side() -> None:
    clock = FakeClock()
    breaker = CircuitBreaker(
        "x",
        BreakerPolicy(failures=1),
        clock=clock,
        is_failure=lambda e: isinstance(e, OSError),
    )
    with pytest.raises(ConnectionError):
        breaker.call_sync(_lose_the_connection)
    clock.advance(30)
    failing(breaker)
    assert breaker.state == "closed"


def _lose_the_connection() -> None:
    raise ConnectionError


def test_an_isolated_breaker_stays_open_until_it_is_restored() -> None:
    clock = FakeClock()
    breaker = breaker_of(clock)
    breaker.isolate()
    clock.advance(3_600)
    with pytest.raises(BreakerOpen, match="held open by hand"):
        breaker.call_sync(succeed)
    assert (breaker.state, breaker.isolated) == ("open", True)
    breaker.restore()
    assert breaker.call_sync(succeed) == "yes"


def test_an_open_breaker_tries_again_at_once_when_the_other_side_is_said_to_be_back() -> None:
    breaker = opened(FakeClock())
    breaker.reconsider()
    assert (breaker.state, breaker.retry_after_s) == ("open", 0.0)
    failing(breaker)
    with pytest.raises(BreakerOpen):
        breaker.call_sync(succeed)
    breaker.reconsider()
    assert breaker.call_sync(succeed) == "yes"
    assert breaker.state == "closed"


def test_one_that_is_held_open_by_hand_stays_so_whoever_is_back() -> None:
    breaker = breaker_of()
    breaker.isolate()
    breaker.reconsider()
    with pytest.raises(BreakerOpen, match="held open by hand"):
        breaker.call_sync(succeed)


def test_a_subsystem_s_breakers_reconsider_together() -> None:
    breakers = Breakers("oona", clock=FakeClock())
    made = [breakers.make(name, BreakerPolicy(failures=1)) for name in ("publish", "consume")]
    for breaker in made:
        failing(breaker)
    breakers.reconsider()
    assert [breaker.call_sync(succeed) for breaker in made] == ["yes", "yes"]


def test_every_transition_is_announced_once() -> None:
    clock = FakeClock()
    seen: list[tuple[str, str, str]] = []
    breaker = CircuitBreaker(
        "x",
        BreakerPolicy(failures=1, open_s=5),
        clock=clock,
        on_transition=lambda *move: seen.append(move),
    )
    failing(breaker)
    clock.advance(5)
    breaker.call_sync(succeed)
    breaker.isolate()
    breaker.isolate()
    breaker.restore()
    assert seen == [
        ("x", "closed", "open"),
        ("x", "open", "half_open"),
        ("x", "half_open", "closed"),
        ("x", "closed", "open"),
        ("x", "open", "closed"),
    ]


def test_a_subsystem_s_breakers_are_measured_at_each_transition() -> None:
    clock, registry = FakeClock(), Registry()
    breakers = Breakers("karn", registry=registry, clock=clock)
    breaker = breakers.make("karn.disk", BreakerPolicy(failures=1, open_s=5))

    def shown(name: str, **labels: str) -> float | None:
        return registry.collectors.get_sample_value(name, {"breaker": "karn.disk", **labels})

    assert shown("esper_karn_breaker_state") == 0
    failing(breaker)
    assert (shown("esper_karn_breaker_state"), breakers.states()) == (2, {"karn.disk": "open"})
    clock.advance(5)
    breaker.call_sync(succeed)
    moves = [
        shown("esper_karn_breaker_transitions_total", state=state)
        for state in ("open", "half_open", "closed")
    ]
    assert moves == [1, 1, 1]
    breakers.forget(breaker)
    assert breakers.states() == {}


@pytest.mark.parametrize(
    "wrong",
    [{"failures": 0}, {"failure_ratio": 0.0}, {"failure_ratio": 1.1}, {"open_s": 0}, {"probes": 0}],
)
def test_a_policy_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not"):
        BreakerPolicy(**wrong)  # type: ignore[arg-type]
