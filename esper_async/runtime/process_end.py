"""How a process of ours ends: without taking itself apart, and in time.

The interpreter's own end, which frees every module, costs a third of a second of processor time,
with torch more; on a busy machine that is seconds in which nothing happens for anybody.
"""

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable


class QuickEnd:
    """Ends this process as the last of its `atexit` handlers, once `code` is set.

    Make it first thing: handlers that are registered later run before it, and so does the wait for
    threads that are no daemons. While `code` is None the interpreter ends as it always does.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        atexit.register(self._end)

    def _end(self) -> None:
        if self.code is None:
            return
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(self.code)


class Deadline:
    """Calls `on_passed()` in a thread of its own when `seconds` have passed since `start`.

    The thread needs no event loop: it is for what must happen although the loop is blocked.
    """

    def __init__(self, seconds: float, on_passed: Callable[[], None]) -> None:
        self._timer = threading.Timer(seconds, on_passed)
        self._timer.daemon = True

    def start(self) -> None:
        """Let the time run; a second call changes nothing."""
        with contextlib.suppress(RuntimeError):
            self._timer.start()

    def cancel(self) -> None:
        """It will not pass any more."""
        self._timer.cancel()
