"""Nonces: what was used once is refused when somebody else presents it again."""

import json
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path

from esper_async.leyline.errors import Refusal, Refused
from esper_async.leyline.limits import LIMITS


class NonceStore:
    """Remembers nonces for their lifetime. `holder` may present the same nonce again.

    A delivery that is repeated after a failure is the same holder; a replay is another one. With a
    `path` they outlive the process: there each is on disk, fsynced, before its message is acted on.
    The holder must be a tuple of strings then.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        lifetime_s: float = LIMITS.nonce_lifetime_s,
        capacity: int = LIMITS.nonce_capacity,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._lifetime_s = lifetime_s
        self._capacity = capacity
        self._now = now
        self._seen: OrderedDict[bytes, tuple[float, Hashable]] = OrderedDict()
        self._file = None if path is None else _NonceFile(path)
        if self._file is not None:
            self._seen.update(self._file.alive(now()))

    def __len__(self) -> int:
        return len(self._seen)

    def close(self) -> None:
        """Close the file, if there is one. Idempotent."""
        if self._file is not None:
            self._file.close()

    def use(self, nonce: bytes, holder: Hashable) -> None:
        """Take `nonce` for `holder`. Raises Refused when another holder took it, or when full."""
        now = self._now()
        while self._seen and next(iter(self._seen.values()))[0] <= now:
            self._seen.popitem(last=False)
        if known := self._seen.get(nonce):
            if known[1] != holder:
                raise Refused(Refusal.REPLAYED, "this nonce was used before")
            return
        if len(self._seen) >= self._capacity:
            raise Refused(Refusal.OVERLOADED, f"{self._capacity} nonces are alive")
        dies_at = now + self._lifetime_s
        if self._file is not None:
            self._file.add(nonce, dies_at, holder, now=now)
        self._seen[nonce] = (dies_at, holder)


class _NonceFile:
    """The nonces of one consumer on disk."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        with self._database:
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS nonces "
                "(nonce BLOB PRIMARY KEY, dies_at REAL NOT NULL, holder TEXT NOT NULL)"
            )

    def alive(self, now: float) -> list[tuple[bytes, tuple[float, Hashable]]]:
        rows = self._database.execute(
            "SELECT nonce, dies_at, holder FROM nonces WHERE dies_at > ? ORDER BY dies_at", (now,)
        )
        return [(nonce, (dies_at, tuple(json.loads(holder)))) for nonce, dies_at, holder in rows]

    def add(self, nonce: bytes, dies_at: float, holder: Hashable, *, now: float) -> None:
        with self._database:
            self._database.execute("DELETE FROM nonces WHERE dies_at <= ?", (now,))
            row = (nonce, dies_at, json.dumps(holder))
            self._database.execute("INSERT OR REPLACE INTO nonces VALUES (?, ?, ?)", row)

    def close(self) -> None:
        self._database.close()
