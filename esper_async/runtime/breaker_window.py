"""How many of the latest calls failed: counts over a window that moves in steps of a tenth."""

from collections import deque

_PARTS = 10


class CallWindow:
    """Calls and failures of the last `window_s` seconds, to a tenth of it; not thread-safe.

    Memory is constant: each tenth has two counts, and an old tenth is dropped whole. A tenth begins
    at a multiple of its length on the clock, so that two windows agree on where it does.
    """

    __slots__ = ("_calls", "_ends", "_failures", "_older", "_part", "_width_s", "calls", "failures")

    def __init__(self, window_s: float) -> None:
        self._width_s = window_s / _PARTS
        self._older: deque[tuple[int, int, int]] = deque()
        self.clear()

    def clear(self) -> None:
        """Forget every call."""
        self.calls = self.failures = 0
        self._calls = self._failures = 0  # of the current tenth
        self._part = 0
        self._ends = float("-inf")
        self._older.clear()  # (tenth, calls, failures)

    def add(self, now: float, failures: int) -> None:
        """Count a call that ended at `now`, in seconds of a monotonic clock, as 0 or 1 failures."""
        if now >= self._ends:
            self._move_to(int(now // self._width_s))
        self.calls += 1
        self._calls += 1
        if failures:
            self.failures += 1
            self._failures += 1

    def _move_to(self, part: int) -> None:
        self._older.append((self._part, self._calls, self._failures))
        while self._older and self._older[0][0] <= part - _PARTS:
            _, calls, failures = self._older.popleft()
            self.calls -= calls
            self.failures -= failures
        self._calls = self._failures = 0
        self._part = part
        self._ends = (part + 1) * self._width_s
