"""The restart limiter against a naive model, and its back-off."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.runtime.clock import FakeClock
from esper_async.runtime.restart import RestartLimiter, RestartPolicy


@settings(max_examples=300, deadline=None)
@given(
    limit=st.integers(0, 5),
    window=st.integers(1, 60),
    gaps=st.lists(st.integers(0, 40), min_size=1, max_size=50),
)
def test_never_more_than_the_limit_in_any_window(limit: int, window: int, gaps: list[int]) -> None:
    clock = FakeClock()
    policy = RestartPolicy(limit=limit, window_s=float(window))
    limiter = RestartLimiter(policy, clock, random.Random(0))
    granted: list[float] = []
    for gap in gaps:
        clock.advance(float(gap))
        now = clock.monotonic()
        expected = sum(1 for moment in granted if now - moment < window) < limit
        assert (limiter.next_delay_s() is not None) == expected
        if expected:
            granted.append(now)
    assert limiter.total == len(granted)


def test_the_wait_is_drawn_from_a_doubling_range_up_to_the_cap() -> None:
    class Largest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            assert a == 0.0
            return b

    policy = RestartPolicy(limit=20, base_s=0.5, cap_s=3.0)
    limiter = RestartLimiter(policy, FakeClock(), Largest())
    assert [limiter.next_delay_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_healthy_minute_starts_the_back_off_over_and_a_short_life_does_not() -> None:
    class Largest(random.Random):
        def uniform(self, _a: float, b: float) -> float:
            return b

    clock = FakeClock()
    limiter = RestartLimiter(RestartPolicy(limit=20, base_s=1.0, cap_s=99), clock, Largest())
    assert limiter.next_delay_s() == 1.0
    limiter.healthy()
    clock.advance(59)
    assert limiter.next_delay_s() == 2.0
    limiter.healthy()
    clock.advance(60)
    assert limiter.next_delay_s() == 1.0
