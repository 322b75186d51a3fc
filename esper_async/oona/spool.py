"""A durable, ordered queue on disk for messages that must not be lost."""

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from esper_async.oona.errors import SpoolBusy
from esper_async.oona.outbox import Parcel

_LOCK_POLL_S = 0.02
_TABLE = """
CREATE TABLE IF NOT EXISTS spool (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    stream TEXT NOT NULL,
    topic TEXT NOT NULL,
    wire BLOB NOT NULL
)
"""
_INSERT = "INSERT OR IGNORE INTO spool (event_id, stream, topic, wire) VALUES (?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class SpoolEntry:
    """One message that waits; `seq` is its place in the order."""

    seq: int
    event_id: str
    stream: str
    topic: str
    wire: bytes


class Spool:
    """One spool directory, owned by one process at a time; its methods may be called from threads.

    Raises SpoolBusy when another process still has it after `patience_s`; OSError or sqlite3.Error
    when the disk refuses, and nobody owns it then.
    """

    def __init__(self, directory: Path, *, patience_s: float = 5.0) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._guard = threading.Lock()
        with ExitStack() as undone:
            self._owner = _own(directory, patience_s)
            undone.callback(os.close, self._owner)
            database = sqlite3.connect(directory / "spool.sqlite", check_same_thread=False)
            undone.callback(database.close)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            with database:
                database.execute(_TABLE)
                self._count = int(database.execute("SELECT COUNT(*) FROM spool").fetchone()[0])
            undone.pop_all()
        self._database = database

    def append(self, *, event_id: str, stream: str, topic: str, wire: bytes) -> bool:
        """Write one message and fsync. False when it already waits under this event id."""
        with self._guard:
            with self._database:
                done = self._database.execute(_INSERT, (event_id, stream, topic, wire))
            self._count += done.rowcount
        return done.rowcount == 1

    def append_many(self, named: Iterable[tuple[str, Parcel]]) -> None:
        """Write parcels under their event ids and fsync once; those that wait already are kept."""
        rows = [(event_id, each.stream, each.topic, each.wire) for event_id, each in named]
        with self._guard:
            with self._database:
                done = self._database.executemany(_INSERT, rows)
            self._count += done.rowcount

    def waiting(self, event_ids: Iterable[str]) -> set[str]:
        """Return those of the event ids under which a message waits."""
        ask = "SELECT event_id FROM spool WHERE event_id = ?"
        with self._guard:
            found = [self._database.execute(ask, (each,)).fetchone() for each in event_ids]
        return {row[0] for row in found if row is not None}

    def after(self, seq: int, limit: int) -> list[SpoolEntry]:
        """Return up to `limit` entries behind `seq`, in order."""
        with self._guard:
            rows = self._database.execute(
                "SELECT seq, event_id, stream, topic, wire FROM spool WHERE seq > ? "
                "ORDER BY seq LIMIT ?",
                (seq, limit),
            ).fetchall()
        return [SpoolEntry(*row) for row in rows]

    def remove(self, seqs: Iterable[int]) -> None:
        """Forget entries that every required group has acknowledged."""
        gone = [(seq,) for seq in seqs]
        with self._guard:
            with self._database:
                done = self._database.executemany("DELETE FROM spool WHERE seq = ?", gone)
            self._count -= done.rowcount

    def __len__(self) -> int:
        """Return how many entries wait."""
        with self._guard:
            return self._count

    def close(self) -> None:
        """Close the files; what waits stays on disk. Idempotent."""
        with self._guard:
            try:
                self._database.close()
            finally:
                if self._owner >= 0:
                    os.close(self._owner)
                    self._owner = -1


def _own(directory: Path, patience_s: float) -> int:
    """Lock the directory; the lock ends with this process, however that ends."""
    handle = os.open(directory / "spool.lock", os.O_RDWR | os.O_CREAT, 0o600)
    give_up = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                os.close(handle)
                raise SpoolBusy(f"another process owns the spool in {directory}") from None
            time.sleep(_LOCK_POLL_S)
        else:
            return handle
