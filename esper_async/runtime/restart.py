"""How often something may be restarted, and how long to wait before the next time."""

import random
from collections import deque
from dataclasses import dataclass

from esper_async.runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """At most `limit` restarts in any `window_s` seconds, with exponential back-off between them.

    The wait before restart number n is drawn from [0, min(cap, base * 2^n)) ("full jitter"). Both
    the count and n start over once the service has been healthy for `healthy_s`.
    """

    limit: int = 3
    window_s: float = 60.0
    base_s: float = 0.25
    cap_s: float = 15.0
    healthy_s: float = 60.0

    def __post_init__(self) -> None:
        if self.limit < 0 or min(self.window_s, self.base_s, self.cap_s, self.healthy_s) <= 0:
            raise ValueError(f"a restart policy needs limit >= 0 and positive times, not {self}")


class RestartLimiter:
    """Apply a `RestartPolicy` to one service or child; pure but for the clock and random source."""

    def __init__(self, policy: RestartPolicy, clock: Clock, source: random.Random) -> None:
        self._policy = policy
        self._clock = clock
        self._random = source
        self._restarts: deque[float] = deque(maxlen=policy.limit or 1)
        self._streak = 0
        self._healthy_since: float | None = None
        self.total = 0

    def healthy(self) -> None:
        """Note that the service has just become ready."""
        self._healthy_since = self._clock.monotonic()

    @property
    def left(self) -> int:
        """How many restarts would be granted if they were asked for now."""
        now = self._clock.monotonic()
        recent = sum(now - moment < self._policy.window_s for moment in self._restarts)
        return max(0, self._policy.limit - recent)

    def next_delay_s(self) -> float | None:
        """Record a failure; return the seconds to wait before restarting, None past the limit."""
        now = self._clock.monotonic()
        policy = self._policy
        if self._healthy_since is not None and now - self._healthy_since >= policy.healthy_s:
            self._streak = 0
            self._restarts.clear()
        self._healthy_since = None
        full = len(self._restarts) >= policy.limit
        if policy.limit == 0 or (full and now - self._restarts[0] < policy.window_s):
            return None
        self._restarts.append(now)
        self.total += 1
        ceiling = min(policy.cap_s, policy.base_s * 2.0 ** min(self._streak, 32))
        self._streak += 1
        return self._random.uniform(0.0, ceiling)
