"""Events on disk, searchable by their words: SQLite with a full-text index.

One connection writes, in batches; another reads, so a long search never waits for a write. Both are
used from worker threads, each under its own lock. `add` never blocks and never fails: past the
queue's bound an event is dropped and counted.
"""

import json
import math
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esper_async.leyline import TelemetryLevel, value_of
from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.disk import DiskLevel

LEVELS = ("info", "warning", "error", "critical")
"""Levels in rising order; a search for one finds it and those above it."""
_NUMBERS = {value_of(TelemetryLevel, name.upper()): name for name in LEVELS}

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
CREATE INDEX IF NOT EXISTS events_by_source ON events (source, id);
CREATE INDEX IF NOT EXISTS warnings_by_source ON events (source, id) WHERE level >= 1;
CREATE INDEX IF NOT EXISTS errors_by_source ON events (source, id) WHERE level >= 2;
CREATE INDEX IF NOT EXISTS criticals_by_source ON events (source, id) WHERE level >= 3;
CREATE INDEX IF NOT EXISTS warnings ON events (id) WHERE level >= 1;
CREATE INDEX IF NOT EXISTS errors ON events (id) WHERE level >= 2;
CREATE INDEX IF NOT EXISTS criticals ON events (id) WHERE level >= 3;
CREATE TABLE IF NOT EXISTS cursors (name TEXT PRIMARY KEY, place INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS set_aside (
    event INTEGER PRIMARY KEY, reason TEXT NOT NULL, time REAL NOT NULL
);
CREATE VIRTUAL TABLE IF NOT EXISTS beginnings USING fts5 (
    name, source, run, message, fields, content='events', content_rowid='id',
    prefix='2 3 4 5 6'
);
CREATE TRIGGER IF NOT EXISTS event_in AFTER INSERT ON events BEGIN
    INSERT INTO beginnings (rowid, name, source, run, message, fields)
    VALUES (new.id, new.name, new.source, new.run, new.message, new.fields);
END;
CREATE TRIGGER IF NOT EXISTS event_out AFTER DELETE ON events BEGIN
    INSERT INTO beginnings (beginnings, rowid, name, source, run, message, fields)
    VALUES ('delete', old.id, old.name, old.source, old.run, old.message, old.fields);
END;
"""
_WITHOUT_OLD_INDEX = """
DROP TRIGGER IF EXISTS events_in;
DROP TRIGGER IF EXISTS events_out;
DROP TABLE words;
INSERT INTO beginnings (beginnings) VALUES ('rebuild');
"""
"""For a store of before there was an index of beginnings."""
_COLUMNS = "events.id, events.time, level, events.source, events.name, events.run, events.message"
_PRUNED_AT_ONCE = 2_000
_YEAR_10000 = 253_402_300_800.0
_KEPT_WHEN_LOW = 1 / 7


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `uid` makes a second delivery of it harmless; `time` is Unix.

    Events tell what others have written: a time that is none becomes 0, a number in `fields` that
    is not finite its name, and half a surrogate pair a question mark, so that SQLite and JSON take
    each.
    """

    uid: str
    time: float
    level: str
    source: str
    name: str
    message: str = ""
    run: str = ""
    fields: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 <= self.time < _YEAR_10000:
            object.__setattr__(self, "time", 0.0)
        for name in ("uid", "source", "name", "message", "run"):
            text = getattr(self, name)
            if not text.isascii():
                object.__setattr__(self, name, _plain(text))
        fields = {_plain(key): _plain(value) for key, value in self.fields.items()}
        object.__setattr__(self, "fields", fields)


def level_of(number: int) -> str:
    """Return the level that a message names by its number; "info" for one that is none."""
    return _NUMBERS.get(number, "info")  # type: ignore[call-overload, no-any-return]


def _plain(value: Any) -> Any:
    """Return a value as JSON and SQLite have it."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


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
        disk: how much room there is. While it is low, events below a warning are not kept and
            retention is a seventh; while it is full, none are kept.
    """

    def __init__(
        self,
        path: Path,
        *,
        retention_s: float = 7 * 86_400.0,
        capacity: int = 10_000,
        disk: Callable[[], DiskLevel] = lambda: "ok",
        clock: Clock | None = None,
    ) -> None:
        self._path = path
        self._retention_s = retention_s
        self._capacity = capacity
        self._disk = disk
        self._clock = clock or SystemClock()
        self._waiting: deque[Event] = deque()
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()
        self._connections: tuple[sqlite3.Connection, sqlite3.Connection] | None = None
        self.dropped = 0

    def open(self) -> None:
        """Open the database, making it if there is none. Blocking; raises sqlite3.Error."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        writer = _connect(self._path)
        old = writer.execute("SELECT 1 FROM sqlite_master WHERE name = 'words'").fetchone()
        writer.executescript(_SCHEMA)
        if old is not None:
            writer.executescript(_WITHOUT_OLD_INDEX)
        reader = _connect(self._path)
        reader.execute("PRAGMA query_only = 1")
        self._connections = writer, reader

    def add(self, event: Event) -> bool:
        """Queue an event for the next `flush`; False when it was dropped.

        So it is when the queue is full, and when the disk has no room for an event of its level.
        """
        if len(self._waiting) >= self._capacity or not self._has_room_for(event):
            self.dropped += 1
            return False
        self._waiting.append(event)
        return True

    def _has_room_for(self, event: Event) -> bool:
        level = self._disk()
        return level == "ok" or (level == "low" and event.level != "info")

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
        kept_s = self._retention_s if self._disk() == "ok" else self._retention_s * _KEPT_WHEN_LOW
        cutoff = self._clock.time() - kept_s
        with self._write_lock, self._writer:
            self._writer.execute("DELETE FROM set_aside WHERE time < ?", (cutoff,))
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

    def after(self, number: int, limit: int) -> list[dict[str, Any]]:
        """Return up to `limit` events behind an id, in order, each with its uid. Blocking."""
        with self._read_lock:
            rows = self._reader.execute(
                f"SELECT {_COLUMNS}, events.fields, events.uid FROM events"
                " WHERE id > ? ORDER BY id LIMIT ?",
                (number, limit),
            ).fetchall()
        return [{**_shown(row[:-1]), "uid": row[-1]} for row in rows]

    def cursor(self, name: str) -> int:
        """Return how far a reader of `after` has come; 0 for a new one. Blocking."""
        with self._read_lock:
            row = self._reader.execute(
                "SELECT place FROM cursors WHERE name = ?", (name,)
            ).fetchone()
        return 0 if row is None else int(row[0])

    def set_cursor(self, name: str, place: int) -> None:
        """Remember how far a reader has come. Blocking; raises sqlite3.Error."""
        with self._write_lock, self._writer:
            self._writer.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", (name, place))

    def set_aside(self, number: int, reason: str) -> None:
        """Remember that a reader could not take an event, and why. Blocking."""
        with self._write_lock, self._writer:
            self._writer.execute(
                "INSERT OR REPLACE INTO set_aside VALUES (?, ?, ?)",
                (number, reason[:500], self._clock.time()),
            )

    def aside(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return events that were set aside, newest first, each with its `reason`. Blocking."""
        with self._read_lock:
            rows = self._reader.execute(
                f"SELECT {_COLUMNS}, events.fields, set_aside.reason FROM set_aside"
                " JOIN events ON events.id = set_aside.event ORDER BY event DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [{**_shown(row[:-1]), "reason": row[-1]} for row in rows]

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
    # a literal, since a partial index is only used for a level that the planner can see
    conditions = [f"level >= {LEVELS.index(query.level)}"]
    parameters: list[Any] = []
    tables, order = "events", "events.id"
    match = match_expression(query.words)
    if match:
        tables = "beginnings JOIN events ON events.id = beginnings.rowid"
        conditions.append("beginnings MATCH ?")
        parameters.append(match)
        order = "beginnings.rowid"
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
