"""How late the event loop is, measured from outside it.

A watchdog thread asks the loop to answer and times the answer. When none comes for `stall_s` it
takes the stack of the loop's thread while the guilty code is still on it. When none comes for
`stuck_s` the loop is given up: somebody else has to act, for nothing in the loop can.
"""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable

_LOOK_EVERY_S = 0.05
_CALLS_SHOWN = 10


class LoopLag:
    """Watch one event loop from a daemon thread.

    `on_lag(seconds)` gets every measurement, `on_stall(seconds, stack)` those of at least
    `stall_s` with the guilty stack as text, `on_stuck(seconds, stack)` comes once, `stuck_s` into a
    stall that has not ended; all are called in the watchdog thread. `start` must be called in the
    loop's thread. A stall is counted in waits of the watchdog, so that a process that was stopped
    is not taken for one whose loop is stuck.
    """

    def __init__(
        self,
        *,
        period_s: float = 0.25,
        stall_s: float = 0.25,
        on_lag: Callable[[float], None] | None = None,
        on_stall: Callable[[float, str], None] | None = None,
        stuck_s: float = float("inf"),
        on_stuck: Callable[[float, str], None] | None = None,
    ) -> None:
        self._period_s = period_s
        self._stall_s = stall_s
        self._on_lag = on_lag
        self._on_stall = on_stall
        self._stuck_s = stuck_s
        self._on_stuck = on_stuck
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.last_s = 0.0
        self.worst_s = 0.0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to watch `loop`, which runs in the calling thread."""
        guilty = threading.get_ident()
        self._thread = threading.Thread(
            target=self._watch, args=(loop, guilty), name="loop-lag", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; returns once the thread has ended or is about to."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def _watch(self, loop: asyncio.AbstractEventLoop, guilty: int) -> None:
        while not self._stop.wait(self._period_s):
            answered = threading.Event()
            asked = time.monotonic()
            try:
                loop.call_soon_threadsafe(answered.set)
            except RuntimeError:  # the loop is closed: nothing left to watch
                return
            stack = None
            if not answered.wait(self._stall_s):
                stack = _stack_of(guilty)
                if not self._outlast(answered, guilty):
                    return
            self._report(time.monotonic() - asked, stack)

    def _outlast(self, answered: threading.Event, guilty: int) -> bool:
        """Wait until a stalled loop answers; return False when asked to stop instead."""
        waited_s, told = self._stall_s, False
        while not answered.wait(_LOOK_EVERY_S):
            waited_s += _LOOK_EVERY_S
            if self._stop.is_set():
                return False
            if waited_s >= self._stuck_s and not told and self._on_stuck is not None:
                told = True
                self._on_stuck(waited_s, _stack_of(guilty))
        return True

    def _report(self, lag_s: float, stack: str | None) -> None:
        self.last_s = lag_s
        self.worst_s = max(self.worst_s, lag_s)
        if self._on_lag is not None:
            self._on_lag(lag_s)
        if stack is not None and self._on_stall is not None:
            self._on_stall(lag_s, stack)


def _stack_of(thread: int) -> str:
    """Return the innermost calls of a thread: who started the process is not to blame."""
    return "".join(traceback.format_stack(sys._current_frames()[thread], limit=_CALLS_SHOWN))
