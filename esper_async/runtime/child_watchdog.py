"""The heartbeat watchdog: it tells a hung child from a slow one, and ends the hung one.

A child whose step count has not moved for its timeout is *hung* if it has also hardly been active
since, and *slow* if it is working, or would be if the machine let it: one that waits for a core is
not idle. The slow one is given three times as long. Before
the kill its stacks are dumped into its log (SIGUSR1, a no-op for a stopped process).
"""

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from esper_async.runtime.clock import Clock

if TYPE_CHECKING:
    from esper_async.runtime.child import Child

_SLOW_FACTOR = 3.0
_BUSY_SHARE = 0.2
_DUMP_GRACE_S = 0.5


class Watchdog:
    """Watch one child's heartbeats; `verdict` says in words why it was killed, if it was."""

    def __init__(
        self, child: "Child", timeout_s: float, start_timeout_s: float, clock: Clock
    ) -> None:
        self._child = child
        self._timeout_s = timeout_s
        self._start_timeout_s = max(start_timeout_s, timeout_s)
        self._clock = clock
        self._started = clock.monotonic()
        self._last_seen: float | None = None
        self._moved_at = self._started
        self._active_at_move = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.verdict: str | None = None

    def arm(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look again in a quarter of the timeout, and so on until disarmed."""
        self._timer = loop.call_later(min(1.0, self._timeout_s / 4), self._look, loop)

    def disarm(self) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._child.running:
            return
        if self._child.last_heartbeat != self._last_seen:
            self._last_seen = self._child.last_heartbeat
            self._moved_at = self._clock.monotonic()
            self._active_at_move = active_seconds(self._child.pid) or 0.0
        reason = self._overdue()
        if reason is None:
            self.arm(loop)
            return
        self.verdict = reason
        self._child.signal(signal.SIGUSR1, group=False)
        self._timer = loop.call_later(_DUMP_GRACE_S, self._child.kill)

    def _overdue(self) -> str | None:
        """Return why the child must go, or None while it may stay."""
        silent_s = self._clock.monotonic() - self._moved_at
        if self._last_seen is None:
            if silent_s < self._start_timeout_s:
                return None
            return f"no first heartbeat within {self._start_timeout_s:.0f} s"
        if silent_s < self._timeout_s:
            return None
        active_s = active_seconds(self._child.pid)
        busy = active_s is not None and active_s - self._active_at_move > _BUSY_SHARE * silent_s
        if busy and silent_s < _SLOW_FACTOR * self._timeout_s:
            return None
        state = "busy, but without progress" if busy else "idle"
        return f"hung: no heartbeat for {silent_s:.1f} s at step {self._child.step} ({state})"


def active_seconds(pid: int | None) -> float | None:
    """Return for how long a process has computed or stood waiting for a core, in seconds.

    The sum over its threads, as the kernel's scheduler tells it (Linux; else None).
    """
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return None
    nanoseconds = 0
    for thread in threads:
        try:
            computed, waited, _ = (thread / "schedstat").read_text().split()
        except (OSError, ValueError):
            continue  # the thread has ended, or the kernel does not tell
        nanoseconds += int(computed) + int(waited)
    return nanoseconds / 1e9
