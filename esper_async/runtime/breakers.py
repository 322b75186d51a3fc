"""The breakers of one subsystem: made in one place, measured under its name, shown in readiness."""

from collections.abc import Callable

import structlog

from esper_async.runtime.breaker import (
    BreakerPolicy,
    BreakerState,
    CircuitBreaker,
    every_exception,
)
from esper_async.runtime.clock import Clock
from esper_async.runtime.metrics import Registry

log = structlog.get_logger(__name__)
BREAKER_LEVELS: dict[BreakerState, float] = {"closed": 0.0, "half_open": 1.0, "open": 2.0}


class Breakers:
    """Make a subsystem's breakers; each transition is counted and logged, each state a gauge.

    The metrics are `<subsystem>.breaker.state` and `<subsystem>.breaker.transitions`.
    """

    def __init__(
        self, subsystem: str, *, registry: Registry | None = None, clock: Clock | None = None
    ) -> None:
        registry = registry or Registry()
        self._clock = clock
        self._made: dict[str, CircuitBreaker] = {}
        self._state = registry.gauge(
            f"{subsystem}.breaker.state", "0 closed, 1 half open, 2 open.", ("breaker",)
        )
        self._transitions = registry.counter(
            f"{subsystem}.breaker.transitions",
            "Changes of a breaker's state, by the new one.",
            ("breaker", "state"),
        )

    def make(
        self,
        name: str,
        policy: BreakerPolicy | None = None,
        *,
        is_failure: Callable[[Exception], bool] = every_exception,
        on_change: Callable[[BreakerState], None] | None = None,
    ) -> CircuitBreaker:
        """Make the breaker of that name, closed; one made before under it is no longer shown.

        `on_change(state)` is told each new state, after the metrics have been.
        """

        def moved(name: str, old: BreakerState, new: BreakerState) -> None:
            self._moved(name, old, new)
            if on_change is not None:
                on_change(new)

        breaker = CircuitBreaker(
            name, policy, clock=self._clock, on_transition=moved, is_failure=is_failure
        )
        self._made[name] = breaker
        self._state.set(BREAKER_LEVELS["closed"], breaker=name)
        return breaker

    def states(self) -> dict[str, str]:
        """Return the state of each breaker by name, as readiness shows it."""
        return {name: breaker.state for name, breaker in self._made.items()}

    def reconsider(self) -> None:
        """Have those that are open admit a probe at once: what they guard is said to be back."""
        for breaker in self._made.values():
            breaker.reconsider()

    def forget(self, breaker: CircuitBreaker) -> None:
        """Show a breaker no longer: whoever called through it is gone."""
        if self._made.get(breaker.name) is breaker:
            del self._made[breaker.name]
            self._state.set(BREAKER_LEVELS["closed"], breaker=breaker.name)

    def get(self, name: str) -> CircuitBreaker:
        """Return the breaker of that name; raises KeyError when there is none."""
        return self._made[name]

    def _moved(self, name: str, old: BreakerState, new: BreakerState) -> None:
        self._state.set(BREAKER_LEVELS[new], breaker=name)
        self._transitions.add(breaker=name, state=new)
        tell = log.warning if new == "open" else log.info
        tell("breaker_moved", breaker=name, old=old, new=new)
