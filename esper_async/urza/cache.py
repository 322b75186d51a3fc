"""A memory cache with a byte budget, least recently used first out."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from esper_async.urza.database import Generation


@dataclass(frozen=True, slots=True)
class Entry:
    """Verified content, the digest of the record it came with, and when that was last compared.

    `sealed` says that it carries this installation's seal.
    """

    content: bytes
    record_digest: str
    generation: Generation
    sealed: bool = False


class ByteCache:
    """Thread-safe; an entry larger than the whole budget is not kept."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._lock = threading.Lock()
        self.size_bytes = 0

    def get(self, key: str) -> Entry | None:
        """The entry, marked as just used."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return entry

    def put(self, key: str, entry: Entry) -> None:
        """Keep the entry and drop the least recently used until the budget holds."""
        with self._lock:
            self._forget(key)
            if len(entry.content) > self._budget_bytes:
                return
            self._entries[key] = entry
            self.size_bytes += len(entry.content)
            while self.size_bytes > self._budget_bytes:
                self._forget(next(iter(self._entries)))

    def drop(self, key: str) -> None:
        """Forget one entry."""
        with self._lock:
            self._forget(key)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self.size_bytes = 0

    def _forget(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= len(entry.content)
