"""How long a worker has been at its job, without the time that it stood waiting for a core."""

import time
from collections.abc import Callable, Mapping

from esper_async.runtime.processes import queued_in_group

_LONGEST_WAIT = 10.0
"""So many times its limit, waiting included, a job may take: nobody is killed sooner for a busy
machine, and nothing goes on for ever."""


class RunningTime:
    """The clock of one job. At the lowest priority a worker may get hardly any of a busy core.

    A process that sleeps or hangs is not waiting for a core: its time counts. Of several processes
    of the worker's group, as of a compiler that it has started, the one that waited longest counts.

    Args:
        group: the process group that the worker leads.
        limit_s: seconds that the job may take.
        queued: says for how many seconds each process of a group has waited so far.
        now: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        group: int,
        limit_s: float,
        *,
        queued: Callable[[int], Mapping[int, float]] = queued_in_group,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._group = group
        self._limit_s = limit_s
        self._queued = queued
        self._now = now
        self._began_s = now()
        self._last = queued(group)
        self.waited_s = 0.0

    def left_s(self) -> float:
        """Look how long the job has waited since the last look; return what is left of its limit.

        To be called every few seconds: what a process has waited is gone with it.
        """
        queued = self._queued(self._group)
        self.waited_s += max(
            (waited_s - self._last.get(pid, 0.0) for pid, waited_s in queued.items()), default=0.0
        )
        self._last = queued
        taken_s = self._now() - self._began_s
        running_s = max(0.0, taken_s - self.waited_s)
        return min(self._limit_s - running_s, _LONGEST_WAIT * self._limit_s - taken_s)
