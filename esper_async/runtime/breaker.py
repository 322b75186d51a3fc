"""The circuit breaker: after repeated failures, refuse at once; then let one call try again.

Semantics follow Polly v8 and resilience4j. `failures` consecutive failures open it; while it is
open every call is refused with the seconds left; after `open_s` ONE call is admitted as a probe
and all others are refused until it ends. A success closes the breaker, a failure opens it again.
A cancelled call is neither. A result that arrives after the state has changed does not count:
it belongs to an older generation.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Literal, ParamSpec, TypeVar

from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.errors import BreakerOpen

__all__ = ["BreakerOpen", "BreakerState", "CircuitBreaker"]

BreakerState = Literal["closed", "open", "half_open"]
Transition = Callable[[str, BreakerState, BreakerState], None]
P = ParamSpec("P")
T = TypeVar("T")


def _every_exception(_error: Exception) -> bool:
    return True


class CircuitBreaker:
    """Guard calls that leave a service's own memory; one breaker serves threads and tasks alike.

    `timeout_s` bounds an asynchronous call (TimeoutError, a failure); a synchronous call cannot
    be interrupted, so one that takes longer returns its result and counts as a failure.
    `is_failure(error)` says which exceptions speak against the other side (default: all);
    the others leave the count as it is, and pass a probe. `on_transition(name, old, new)` is
    called after every change of state, outside the lock.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = 3,
        open_s: float = 30.0,
        timeout_s: float | None = None,
        clock: Clock | None = None,
        on_transition: Transition | None = None,
        is_failure: Callable[[Exception], bool] = _every_exception,
    ) -> None:
        if failures < 1:
            raise ValueError(f"a breaker opens after at least 1 failure, not {failures}")
        self.name = name
        self._limit = failures
        self._open_s = open_s
        self._timeout_s = timeout_s
        self._clock: Clock = clock or SystemClock()
        self._on_transition = on_transition
        self._is_failure = is_failure
        self._lock = threading.Lock()
        self._state: BreakerState = "closed"
        self._generation = 0
        self._failed = 0
        self._retry_at = 0.0
        self._probing = False

    @property
    def state(self) -> BreakerState:
        """The state; an open breaker stays "open" until a call is admitted as its probe."""
        return self._state

    @property
    def retry_after_s(self) -> float:
        """Seconds until an open breaker admits a probe; 0 when it would admit a call now."""
        if self._state != "open":
            return 0.0
        return max(0.0, self._retry_at - self._clock.monotonic())

    async def call(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Await `function(*args)` if the breaker admits it.

        Raises BreakerOpen when it does not, TimeoutError past `timeout_s`, else what the function
        raises. Cancellation passes through and is counted neither way.
        """
        generation = self._admit()
        try:
            if self._timeout_s is None:
                result = await function(*args, **kwargs)
            else:
                async with asyncio.timeout(self._timeout_s):
                    result = await function(*args, **kwargs)
        except Exception as error:
            self._settle(generation, failed=self._is_failure(error))
            raise
        except BaseException:
            self._abandon(generation)
            raise
        self._settle(generation, failed=False, answered=True)
        return result

    def call_sync(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function(*args)` if the breaker admits it; raises BreakerOpen when it does not."""
        generation = self._admit()
        started = self._clock.monotonic() if self._timeout_s is not None else 0.0
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            self._settle(generation, failed=self._is_failure(error))
            raise
        except BaseException:
            self._abandon(generation)
            raise
        slow = self._timeout_s is not None and self._clock.monotonic() - started > self._timeout_s
        self._settle(generation, failed=slow, answered=not slow)
        return result

    def _admit(self) -> int:
        """Admit the caller and return the generation its result will count for."""
        if self._state == "closed":
            return self._generation
        with self._lock:
            if self._state == "open":
                left = self._retry_at - self._clock.monotonic()
                if left > 0:
                    raise BreakerOpen(self.name, left)
                self._state = "half_open"
                self._generation += 1
                self._probing = True
                moved = True
            elif self._state == "half_open":
                if self._probing:
                    raise BreakerOpen(self.name, self._timeout_s or self._open_s)
                self._probing = True
                moved = False
            else:
                moved = False
            generation = self._generation
        if moved:
            self._announce("open", "half_open")
        return generation

    def _settle(self, generation: int, *, failed: bool, answered: bool = False) -> None:
        """Count the outcome of an admitted call, unless it belongs to an older generation."""
        if not failed and self._state == "closed" and self._failed == 0:
            return
        with self._lock:
            if generation != self._generation:
                return
            old = self._state
            if failed:
                self._failed += 1
                if old == "half_open" or self._failed >= self._limit:
                    self._move("open")
                    self._retry_at = self._clock.monotonic() + self._open_s
            elif old == "half_open":
                self._move("closed")
            elif answered:
                self._failed = 0
            new = self._state
        if new != old:
            self._announce(old, new)

    def _abandon(self, generation: int) -> None:
        """Free the probe's place when its call was cancelled: it told nothing."""
        with self._lock:
            if generation == self._generation:
                self._probing = False

    def _move(self, state: BreakerState) -> None:
        self._state = state
        self._generation += 1
        self._failed = 0
        self._probing = False

    def _announce(self, old: BreakerState, new: BreakerState) -> None:
        if self._on_transition is not None:
            self._on_transition(self.name, old, new)
