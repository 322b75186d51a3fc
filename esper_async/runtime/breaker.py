"""The circuit breaker: after repeated failures, refuse at once; then let a few calls try again.

Semantics follow Polly v8 and resilience4j. A closed breaker opens when enough of the calls in its
window have failed, or when `failures` of them have in a row: the ratio alone would ask of a busy
caller as many failures as it has had successes. While it is open every call is refused with the
seconds left. After `open_s` it is half open: `probes` calls are admitted, all others are refused.
When each of these has succeeded it closes, when one fails it opens again. Probes that have not
ended after another `open_s` have told nothing, and others are admitted in their place.

A call that answers, but too slowly, counts as a failure. A cancelled one is neither. A result that
arrives after the state has changed does not count: it belongs to an older generation.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

from esper_async.runtime.breaker_window import CallWindow
from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.errors import BreakerOpen

__all__ = ["BreakerOpen", "BreakerPolicy", "BreakerState", "CircuitBreaker"]

BreakerState = Literal["closed", "open", "half_open"]
Transition = Callable[[str, BreakerState, BreakerState], None]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """When a breaker opens, for how long, and what it takes to close it; times in seconds.

    It opens after `failures` failures in a row, or once at least `failure_ratio` of the calls of
    the last `window_s` have failed and these are `minimum_calls` or more. `timeout_s` bounds an
    asynchronous call (TimeoutError, a failure); a synchronous one cannot be interrupted. A call
    that takes longer than `slow_s` (default: `timeout_s`) returns its result and counts as a
    failure.
    """

    failures: int = 3
    failure_ratio: float = 0.5
    minimum_calls: int = 20
    window_s: float = 30.0
    open_s: float = 30.0
    probes: int = 1
    timeout_s: float | None = None
    slow_s: float | None = None

    def __post_init__(self) -> None:
        if self.failures < 1 or self.minimum_calls < 1 or self.probes < 1:
            raise ValueError(f"a breaker counts failures, calls and probes from 1 on, not {self}")
        if not 0.0 < self.failure_ratio <= 1.0:
            raise ValueError(f"a failure ratio is in (0, 1], not {self.failure_ratio}")
        times = (self.window_s, self.open_s, self.timeout_s, self.slow_s)
        if any(seconds is not None and seconds <= 0 for seconds in times):
            raise ValueError(f"a breaker's times are positive, not {self}")


def every_exception(_error: Exception) -> bool:
    """Count every exception as a failure."""
    return True


class CircuitBreaker:
    """Guard calls that leave a service's own memory; one breaker serves threads and tasks alike.

    `is_failure(error)` says which exceptions speak against the other side (default: all);
    the others are no call at all to a closed breaker, and pass a probe. `on_transition(name, old,
    new)` is called after every change of state, outside the lock.
    """

    __slots__ = (
        "_generation", "_is_failure", "_isolated", "_lock", "_now", "_on_transition",
        "_passed", "_probing", "_row", "_slow_s", "_state", "_timeout_s", "_until", "_window",
        "name", "policy",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        policy: BreakerPolicy | None = None,
        *,
        clock: Clock | None = None,
        on_transition: Transition | None = None,
        is_failure: Callable[[Exception], bool] = every_exception,
    ) -> None:
        self.name = name
        self.policy = policy or BreakerPolicy()
        self._timeout_s = self.policy.timeout_s
        slow_s = self.policy.slow_s if self.policy.slow_s is not None else self._timeout_s
        self._slow_s = float("inf") if slow_s is None else slow_s
        self._now = (clock or SystemClock()).monotonic
        self._on_transition = on_transition
        self._is_failure = is_failure
        self._lock = threading.Lock()
        self._window = CallWindow(self.policy.window_s)
        self._state: BreakerState = "closed"
        self._generation = 0
        self._row = 0
        self._until = 0.0
        self._probing = 0
        self._passed = 0
        self._isolated = False

    @property
    def state(self) -> BreakerState:
        """The state; an open breaker stays "open" until a call is admitted as its probe."""
        return self._state

    @property
    def isolated(self) -> bool:
        """Whether it is held open by hand."""
        return self._isolated

    @property
    def retry_after_s(self) -> float:
        """Seconds until an open breaker admits a probe; 0 when it would admit a call now."""
        if self._isolated:
            return self.policy.open_s
        return max(0.0, self._until - self._now()) if self._state == "open" else 0.0

    def isolate(self) -> None:
        """Hold it open by hand: every call is refused until `restore`."""
        with self._lock:
            old = self._state
            self._isolated = True
            self._move("open")
        if old != "open":
            self._announce(old, "open")

    def restore(self) -> None:
        """Close it by hand, whether it was isolated or had opened by itself; it starts afresh."""
        with self._lock:
            old = self._state
            self._isolated = False
            self._move("closed")
        if old != "closed":
            self._announce(old, "closed")

    def reconsider(self) -> None:
        """Admit a probe at once if it had opened by itself: the other side is said to be back."""
        with self._lock:
            if self._state == "open":
                self._until = self._now()

    async def call(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Await `function(*args)` if the breaker admits it.

        Raises BreakerOpen when it does not, TimeoutError past `timeout_s`, else what the function
        raises. Cancellation passes through and is counted neither way.
        """
        generation = self._generation if self._state == "closed" else self._admit()
        started = self._now()
        try:
            if self._timeout_s is None:
                result = await function(*args, **kwargs)
            else:
                async with asyncio.timeout(self._timeout_s):
                    result = await function(*args, **kwargs)
        except Exception as error:
            self._fail(generation, error)
            raise
        except BaseException:
            self._abandon(generation)
            raise
        self._answer(generation, started)
        return result

    def call_sync(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function(*args)` if the breaker admits it; raises BreakerOpen when it does not."""
        generation = self._generation if self._state == "closed" else self._admit()
        started = self._now()
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            self._fail(generation, error)
            raise
        except BaseException:
            self._abandon(generation)
            raise
        self._answer(generation, started)
        return result

    def _admit(self) -> int:
        """Admit the caller and return the generation its result will count for."""
        with self._lock:
            old = self._state
            if old == "closed":
                return self._generation
            now = self._now()
            left_s = self.policy.open_s if self._isolated else self._until - now
            if old == "open" and left_s > 0:
                raise BreakerOpen(self.name, left_s, by_hand=self._isolated)
            if old == "open" or left_s <= 0:  # in half open: the probes have gone silent
                self._move("half_open")
                self._until = now + self.policy.open_s
            elif self._probing + self._passed >= self.policy.probes:
                raise BreakerOpen(self.name, left_s)
            self._probing += 1
            generation = self._generation
        if old == "open":
            self._announce("open", "half_open")
        return generation

    def _answer(self, generation: int, started: float) -> None:
        """Count an admitted call that answered, unless it belongs to an older generation."""
        now = self._now()
        if now - started > self._slow_s:
            self._count_failure(generation, now)
            return
        with self._lock:
            if generation != self._generation:
                return
            if self._state == "closed":
                self._row = 0
                self._window.add(now, 0)
                return
            closes = self._passes()
        if closes:
            self._announce("half_open", "closed")

    def _fail(self, generation: int, error: Exception) -> None:
        """Count an admitted call that raised, by whether that speaks against the other side."""
        if self._is_failure(error):
            self._count_failure(generation, self._now())
            return
        with self._lock:
            closes = generation == self._generation and self._passes()
        if closes:
            self._announce("half_open", "closed")

    def _count_failure(self, generation: int, now: float) -> None:
        with self._lock:
            old = self._state
            if generation != self._generation or old == "open":
                return
            self._row += 1
            self._window.add(now, 1)
            if old == "closed" and not self._has_had_enough():
                return
            self._move("open")
            self._until = now + self.policy.open_s
        self._announce(old, "open")

    def _has_had_enough(self) -> bool:
        window, policy = self._window, self.policy
        if self._row >= policy.failures:
            return True
        enough = window.calls >= policy.minimum_calls
        return enough and window.failures >= policy.failure_ratio * window.calls

    def _passes(self) -> bool:
        """Count a probe that passed; return whether it was the last one needed."""
        if self._state != "half_open":
            return False
        self._probing -= 1
        self._passed += 1
        if self._passed < self.policy.probes:
            return False
        self._move("closed")
        return True

    def _abandon(self, generation: int) -> None:
        """Free the probe's place when its call was cancelled: it told nothing."""
        with self._lock:
            if generation == self._generation and self._state == "half_open":
                self._probing -= 1

    def _move(self, state: BreakerState) -> None:
        self._state = state
        self._generation += 1
        self._row = 0
        self._probing = 0
        self._passed = 0
        self._window.clear()

    def _announce(self, old: BreakerState, new: BreakerState) -> None:
        if self._on_transition is not None:
            self._on_transition(self.name, old, new)
