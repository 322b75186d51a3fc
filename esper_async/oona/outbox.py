"""A bounded queue between threads for messages that may be dropped, each drop counted."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from esper_async.leyline.names import short_name
from esper_async.leyline.v1.enums_pb2 import MessagePriority


class Parcel(NamedTuple):  # made for every message: a frozen dataclass takes three times as long
    """One wrapped message with the stream it goes to."""

    stream: str
    topic: str
    priority: MessagePriority.ValueType
    wire: bytes

    @property
    def label(self) -> str:
        """Its priority as metrics and reports name it."""
        return label_of(self.priority)


def label_of(priority: MessagePriority.ValueType) -> str:
    """Return a priority as metrics and reports name it."""
    return short_name(MessagePriority, priority).lower()


class Outbox:
    """Filled by any thread, emptied by one. A full outbox refuses the newest."""

    def __init__(
        self,
        *,
        entries_limit: int,
        bytes_limit: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entries_limit = entries_limit
        self._bytes_limit = bytes_limit
        self._guard = threading.Lock()
        self._queue: deque[Parcel] = deque()
        self._size_bytes = 0
        self._open = True
        self._clock = clock
        self._unmoved_since: float | None = None
        self.offered = 0
        self.sent = 0
        self.dropped: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return how many parcels wait."""
        return len(self._queue)

    def put(self, parcel: Parcel) -> bool:
        """Queue a parcel; False when it was dropped."""
        with self._guard:
            self.offered += 1
            size = self._size_bytes + len(parcel.wire)
            full = len(self._queue) >= self._entries_limit or size > self._bytes_limit
            if full or not self._open:
                self.dropped[parcel.label] += 1
                return False
            self._queue.append(parcel)
            self._size_bytes = size
            if self._unmoved_since is None:
                self._unmoved_since = self._clock()
            return True

    @property
    def full(self) -> float:
        """How full it is, 0 to 1, by what is nearer to its limit: entries or bytes."""
        return max(len(self._queue) / self._entries_limit, self._size_bytes / self._bytes_limit)

    @property
    def unmoved_s(self) -> float:
        """For how many seconds parcels have waited and none has left; 0 when none wait."""
        since = self._unmoved_since
        return 0.0 if since is None else self._clock() - since

    def peek(self, limit: int) -> list[Parcel]:
        """Return up to `limit` parcels, oldest first; they stay until `settle`."""
        with self._guard:
            return [self._queue[place] for place in range(min(limit, len(self._queue)))]

    def settle(self, count: int, dropped: Sequence[Parcel] = ()) -> None:
        """Remove the `count` oldest parcels: they were sent, but for those that were `dropped`."""
        with self._guard:
            for _ in range(count):
                self._size_bytes -= len(self._queue.popleft().wire)
            self._unmoved_since = self._clock() if self._queue else None
            self.sent += count - len(dropped)
            self.dropped.update(parcel.label for parcel in dropped)

    def shut(self) -> None:
        """Drop whatever is offered from now on."""
        with self._guard:
            self._open = False

    def abandon(self) -> None:
        """Drop, and count, what still waits."""
        with self._guard:
            self._open = False
            self.dropped.update(parcel.label for parcel in self._queue)
            self._queue.clear()
            self._size_bytes = 0
