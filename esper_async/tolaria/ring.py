"""The newest states of a run in memory, bounded in number and in bytes, the copying included."""

from collections import deque
from typing import NamedTuple

from esper_async.tolaria.state_copy import StateCopy


class Kept(NamedTuple):
    """A state in memory; `size_bytes` is what its tensors take."""

    step: int
    copied: StateCopy
    size_bytes: int


class Ring:
    """States by the step at which they were taken, newest last.

    Args:
        most: how many there may be.
        budget_bytes: what they may take together.
    """

    def __init__(self, most: int, budget_bytes: int) -> None:
        self._most = most
        self._budget_bytes = budget_bytes
        self._states: deque[Kept] = deque()

    @property
    def size_bytes(self) -> int:
        """What the states take."""
        return sum(kept.size_bytes for kept in self._states)

    @property
    def steps(self) -> list[int]:
        """At which steps they were taken, oldest first."""
        return [kept.step for kept in self._states]

    def may_hold(self, size_bytes: int) -> bool:
        """Whether a state of that size would be kept."""
        return self._most > 0 and size_bytes <= self._budget_bytes

    def make_room(self, size_bytes: int) -> list[Kept]:
        """Drop the oldest states until one of that size fits, all if it never does; return them."""
        dropped: list[Kept] = []
        while self._states and not self._has_room(size_bytes):
            dropped.append(self._states.popleft())
        return dropped

    def keep(self, step: int, copied: StateCopy, size_bytes: int) -> None:
        """Add the newest state; there must be room for it.

        Raises:
            ValueError: there is none, or a newer state is kept.
        """
        if not self._has_room(size_bytes):
            raise ValueError(f"no room for {size_bytes} bytes beside {self.size_bytes}")
        if self._states and self._states[-1].step > step:
            raise ValueError(f"step {step} is before step {self._states[-1].step}, which is kept")
        self._states.append(Kept(step, copied, size_bytes))

    def before(self, step: int) -> Kept | None:
        """Return the newest state from before `step`, if there is one."""
        return next((kept for kept in reversed(self._states) if kept.step < step), None)

    def drop_after(self, step: int) -> None:
        """Drop the states from after `step`."""
        while self._states and self._states[-1].step > step:
            self._states.pop()

    def _has_room(self, size_bytes: int) -> bool:
        fits = self.size_bytes + size_bytes <= self._budget_bytes
        return fits and len(self._states) < self._most
