"""Events on disk, searchable by their words: SQLite with a full-text index.

One connection writes, in batches; another reads, so a long search never waits for a write. Both are
used from worker threads, each under its own lock. `add` never blocks and never fails: past the
queue's bound an event is dropped and counted.
"""

import json
import sqlite3
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esper_async.runtime.clock import Clock, SystemClock

LEVELS = ("info", "warning", "error", "critical")
"""Levels in rising order; a search for one finds it and those above it."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY,
    uid TEXT NOT NULL UNIQUE,
    time REAL NOT NULL,
    level INTEGER NOT NULL,
    source TEXT NOT NULL,
    name TEXT NOT NULL,
    run TEXT NOT NULL,
    message TEXT NOT NULL,
    fields TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_by_time ON events (time);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (
    name, source, run, message, fields, content='events', content_rowid='id'
);
CREATE TRIGGER IF NOT EXISTS events_in AFTER INSERT ON events BEGIN
    INSERT INTO words (rowid, name, source, run, message, fields)
    VALUES (new.id, new.name, new.source, new.run, new.message, new.fields);
END;
CREATE TRIGGER IF NOT EXISTS events_out AFTER DELETE ON events BEGIN
    INSERT INTO words (words, rowid, name, source, run, message, fields)
    VALUES ('delete', old.id, old.name, old.source, old.run, old.message, old.fields);
END;
"""
_COLUMNS = "events.id, time, level, events.source, events.name, events.run, events.message"
_PRUNED_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `uid` makes a second delivery of it harmless; `time` is Unix."""

    uid: str
    time: float
    level: str
    source: str
    name: str
    message: str = ""
    run: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for: words (all of them, by their beginnings), at least this level, and so on.

    `before` continues a page: only events with a smaller id.
    """

    words: str = ""
    level: str = "info"
    source: str = ""
    since: float | None = None
    before: int | None = None
    limit: int = 100


class EventStore:
    """The events of a state directory. Closed until `open`; events may be added before that.

    Args:
        path: the database file; its folder is made.
        retention_s: how long an event is kept.
        capacity: how many events may wait to be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        retention_s: float = 7 * 86_400.0,
        capacity: int = 10_000,
        clock: Clock | None = None,
    ) -> None:
        self._path = path
        self._retention_s = retention_s
        self._capacity = capacity
        self._clock = clock or SystemClock()
        self._waiting: deque[Event] = deque()
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()
        self._connections: tuple[sqlite3.Connection, sqlite3.Connection] | None = None
        self.dropped = 0

    def open(self) -> None:
        """Open the database, making it if there is none. Blocking; raises sqlite3.Error."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        writer = _connect(self._path)
        writer.executescript(_SCHEMA)
        reader = _connect(self._path)
        reader.execute("PRAGMA query_only = 1")
        self._connections = writer, reader

    def add(self, event: Event) -> bool:
        """Queue an event for the next `flush`; False when the queue is full and it was dropped."""
        if len(self._waiting) >= self._capacity:
            self.dropped += 1
            return False
        self._waiting.append(event)
        return True

    @property
    def waiting(self) -> int:
        """Events that are not on disk yet."""
        return len(self._waiting)

    def flush(self) -> int:
        """Write what waits in one transaction and return how many. Blocking; raises sqlite3.Error.

        When writing fails the events wait for the next time.
        """
        with self._write_lock:
            batch = [self._waiting[index] for index in range(len(self._waiting))]
            if not batch:
                return 0
            with self._writer:
                self._writer.executemany(
                    "INSERT OR IGNORE INTO events"
                    " (uid, time, level, source, name, run, message, fields)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    [_row(event) for event in batch],
                )
            for _ in batch:
                self._waiting.popleft()
            return len(batch)

    def prune(self) -> int:
        """Delete events past their retention, a bounded number at once; return how many."""
        cutoff = self._clock.time() - self._retention_s
        with self._write_lock, self._writer:
            return self._writer.execute(
                "DELETE FROM events WHERE id IN"
                " (SELECT id FROM events WHERE time < ? ORDER BY time LIMIT ?)",
                (cutoff, _PRUNED_AT_ONCE),
            ).rowcount

    def search(self, query: Query) -> list[dict[str, Any]]:
        """Return matching events, newest first. Blocking; any words are legal."""
        sql, values = _select(query)
        with self._read_lock:
            rows = self._reader.execute(sql, values).fetchall()
        return [_shown(row) for row in rows]

    def count(self) -> int:
        """How many events are on disk."""
        with self._read_lock:
            return int(self._reader.execute("SELECT count(*) FROM events").fetchone()[0])

    def close(self) -> None:
        """Write what waits and close; it can be opened again. Idempotent."""
        if self._connections is None:
            return
        try:
            self.flush()
        finally:
            with self._write_lock, self._read_lock:
                for connection in self._connections:
                    connection.close()
                self._connections = None

    @property
    def _writer(self) -> sqlite3.Connection:
        return self._open_connections()[0]

    @property
    def _reader(self) -> sqlite3.Connection:
        return self._open_connections()[1]

    def _open_connections(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        if self._connections is None:
            raise sqlite3.ProgrammingError("the event store is not open")
        return self._connections


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _row(event: Event) -> Sequence[Any]:
    level = LEVELS.index(event.level)
    fields = json.dumps(event.fields, separators=(",", ":"), ensure_ascii=False, default=str)
    return (
        event.uid, event.time, level, event.source, event.name, event.run, event.message, fields,
    )  # fmt: skip


def _select(query: Query) -> tuple[str, list[Any]]:
    conditions, values = ["level >= ?"], [LEVELS.index(query.level)]
    parameters: list[Any] = list(values)
    tables, order = "events", "events.id"
    match = match_expression(query.words)
    if match:
        tables = "words JOIN events ON events.id = words.rowid"
        conditions.append("words MATCH ?")
        parameters.append(match)
        order = "words.rowid"
    for condition, value in (
        ("events.source = ?", query.source or None),
        ("time >= ?", query.since),
        (f"{order} < ?", query.before),
    ):
        if value is not None:
            conditions.append(condition)
            parameters.append(value)
    # every interpolated part is one of the constants above
    where = " AND ".join(conditions)
    sql = f"SELECT {_COLUMNS}, events.fields FROM {tables} WHERE {where} ORDER BY {order} DESC"
    return f"{sql} LIMIT ?", [*parameters, query.limit]


def match_expression(words: str) -> str:
    """Turn what a person typed into a full-text expression: every word, by its beginning.

    Nothing typed is an operator. Returns "" when there is nothing to look for.
    """
    quoted = [
        '"' + word.replace('"', '""') + '"*'
        for word in words.replace("\0", " ").split()
        if any(character.isalnum() for character in word)
    ]
    return " ".join(quoted)


def _shown(row: Sequence[Any]) -> dict[str, Any]:
    number, time, level, source, name, run, message, fields = row
    return {
        "id": number,
        "time": time,
        "level": LEVELS[level],
        "source": source,
        "name": name,
        "run": run or None,
        "message": message,
        "fields": json.loads(fields),
    }
