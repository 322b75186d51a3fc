"""The heartbeat watchdog: it tells a hung child from a slow one, and ends the hung one.

A child whose step count has not moved for its timeout is *hung* if it has also used next to no
processor time since, and *slow* if it is working: the slow one is given three times as long. Before
the kill its stacks are dumped into its log (SIGUSR1, a no-op for a stopped process).
"""

import asyncio
import os
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
        self._cpu_at_move = 0.0
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
            self._cpu_at_move = processor_seconds(self._child.pid) or 0.0
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
        used_s = processor_seconds(self._child.pid)
        busy = used_s is not None and used_s - self._cpu_at_move > _BUSY_SHARE * silent_s
        if busy and silent_s < _SLOW_FACTOR * self._timeout_s:
            return None
        state = "busy, but without progress" if busy else "idle"
        return f"hung: no heartbeat for {silent_s:.1f} s at step {self._child.step} ({state})"


def processor_seconds(pid: int | None) -> float | None:
    """Return the processor time a process has used, all threads, in seconds (Linux; else None)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
