"""Time as something one is given: the system's clock, and one that only moves when told to."""

import asyncio
import heapq
import itertools
import time
from typing import Protocol


class Clock(Protocol):
    """Where a component reads time and waits for it."""

    def monotonic(self) -> float:
        """Return seconds that never go backwards; only differences mean anything."""
        ...

    def time(self) -> float:
        """Return Unix time in seconds; it may jump."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait until `monotonic()` has advanced by `seconds`."""
        ...


class SystemClock:
    """The machine's own clocks, as they are: a breaker asks twice a call."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    async def sleep(self, seconds: float) -> None:
        """Sleep in the running event loop."""
        await asyncio.sleep(max(0.0, seconds))


class FakeClock:
    """A clock for tests: it stands still until `advance`, which wakes the sleepers due by then.

    Both times advance together; `step_wall` moves only the wall clock, as an operator or NTP may.
    """

    def __init__(self, *, monotonic: float = 1_000.0, wall: float = 1_700_000_000.0) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        """Return the fake monotonic time in seconds."""
        return self._monotonic

    def time(self) -> float:
        """Return the fake Unix time in seconds."""
        return self._wall

    def advance(self, seconds: float) -> None:
        """Move both clocks forward; raises ValueError for a negative step."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock cannot go back by {-seconds} s")
        self._monotonic += seconds
        self._wall += seconds
        while self._sleepers and self._sleepers[0][0] <= self._monotonic:
            heapq.heappop(self._sleepers)[2].set()

    def step_wall(self, seconds: float) -> None:
        """Move the wall clock alone, in either direction."""
        self._wall += seconds

    @property
    def sleepers(self) -> int:
        """How many coroutines are asleep on this clock."""
        return len(self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Wait until `advance` has moved the clock by `seconds`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        event = asyncio.Event()
        entry = (self._monotonic + seconds, next(self._order), event)
        heapq.heappush(self._sleepers, entry)
        try:
            await event.wait()
        finally:
            if entry in self._sleepers:
                self._sleepers.remove(entry)
                heapq.heapify(self._sleepers)
