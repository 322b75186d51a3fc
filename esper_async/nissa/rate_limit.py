"""How often one client may change something: a sliding window a client."""

from collections import OrderedDict, deque

from esper_async.runtime.clock import Clock, SystemClock

_CLIENTS = 1_000


class RateLimit:
    """At most `limit` events a client in any `window_s`; of very many clients the latest count."""

    def __init__(
        self, limit: int = 20, *, window_s: float = 60.0, clock: Clock | None = None
    ) -> None:
        self.limit = limit
        self._window_s = window_s
        self._clock = clock or SystemClock()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, client: str) -> float:
        """Count one event and return 0, or the seconds to wait when the share is used up."""
        now = self._clock.monotonic()
        times = self._times.setdefault(client, deque())
        self._times.move_to_end(client)
        if len(self._times) > _CLIENTS:
            self._times.popitem(last=False)
        while times and times[0] <= now - self._window_s:
            times.popleft()
        if len(times) >= self.limit:
            return times[0] + self._window_s - now
        times.append(now)
        return 0.0
