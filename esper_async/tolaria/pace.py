"""How fast a checkpoint is written: beside training, and not at its cost.

A lower priority of the writing thread would not do: on a busy machine it would be starved while it
holds Python's lock, or while training waits for it.
"""

from threading import Event

REST = 9.0
"""Rests are so many times the work before them: a writer has a tenth of a core, and of the memory's
bandwidth, which the cores share."""
LEAST_WORK_S = 2e-3
"""Before a rest; a small state is written without one."""


class Pace:
    """Rests between pieces of work, until it is told to hurry or has rested for long enough.

    Args:
        rest_s: how long all rests may take together.
    """

    def __init__(self, rest_s: float) -> None:
        self._left_s = rest_s
        self._worked_s = 0.0
        self._hurried = Event()

    def hurry(self) -> None:
        """End the rest under way and have no more of them: somebody waits. From any thread."""
        self._hurried.set()

    def worked(self, seconds: float) -> None:
        """Count work done; sleep in proportion once it is enough, while there is time."""
        self._worked_s += seconds
        if self._worked_s < LEAST_WORK_S:
            return
        rest_s, self._worked_s = min(REST * self._worked_s, self._left_s), 0.0
        if rest_s > 0.0 and not self._hurried.wait(rest_s):
            self._left_s -= rest_s
