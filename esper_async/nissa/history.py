"""What every metric was in the last thirty days: SQLite roll-ups, by the minute and by the hour.

A counter is kept as its increase, a level by its sum, extremes and count within the bucket. A
counter that did not move writes nothing, and a minute in which nobody looked has no mark: so
"nothing happened" and "not measured" stay two different things. Minutes are kept for a bit over a
day, hours for the whole time; both are written together. Histograms keep their sums and counts, not
their buckets.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper_async.nissa.reading import Reading, SampleKind

MINUTE_S, HOUR_S = 60, 3_600
MINUTES_KEPT_S = 26 * HOUR_S
SERIES_KEPT = 5_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS series (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, labels TEXT NOT NULL, kind TEXT NOT NULL,
    UNIQUE (name, labels)
);
CREATE TABLE IF NOT EXISTS minutes (
    series INTEGER NOT NULL, time INTEGER NOT NULL,
    total REAL NOT NULL, low REAL NOT NULL, high REAL NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (series, time)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hours (
    series INTEGER NOT NULL, time INTEGER NOT NULL,
    total REAL NOT NULL, low REAL NOT NULL, high REAL NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (series, time)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (time INTEGER PRIMARY KEY);
"""
_ADD = """
INSERT INTO {table} (series, time, total, low, high, count) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (series, time) DO UPDATE SET
    total = total + excluded.total, low = min(low, excluded.low),
    high = max(high, excluded.high), count = count + excluded.count
"""
Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Point:
    """A bucket that begins at Unix time `time`.

    A counter's `value` is its increase, a level's the mean; None where it was not measured.
    """

    time: float
    value: float | None
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The point as the API shows it."""
        return {"time": self.time, "value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class SeriesHistory:
    """One series and its buckets, oldest first."""

    labels: dict[str, str]
    points: list[Point]


@dataclass(slots=True)
class _Bucket:
    kind: SampleKind
    total: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")
    count: int = 0

    def take(self, value: float) -> None:
        self.total += value
        self.low, self.high = min(self.low, value), max(self.high, value)
        self.count += 1


class History:
    """The metrics' past in one database. Closed until `open`; calls block and may be threads'."""

    def __init__(self, path: Path, *, retention_s: float = 30 * 86_400.0) -> None:
        self._path = path
        self._retention_s = retention_s
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._known: dict[Key, float] = {}
        self._ids: dict[Key, int] = {}
        self._minute: int | None = None
        self._buckets: dict[Key, _Bucket] = {}
        self.refused = 0

    def open(self) -> None:
        """Open the database, making it if there is none; raises sqlite3.Error."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self._path, check_same_thread=False)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(_SCHEMA)
        found = database.execute("SELECT name, labels, id FROM series")
        self._ids = {(name, _read_labels(text)): number for name, text, number in found}
        self._database = database

    def close(self) -> None:
        """Write the minute that is going on and close; it can be opened again. Idempotent."""
        with self._lock:
            if self._database is None:
                return
            try:
                self._write()
            finally:
                self._database.close()
                self._database = None

    def take(self, reading: Reading, now: float) -> None:
        """Take in what the metrics show at Unix time `now`; raises sqlite3.Error when it writes."""
        with self._lock:
            minute = int(now // MINUTE_S) * MINUTE_S
            if self._minute is not None and minute != self._minute:
                self._write()
            self._minute = minute
            for name, samples in reading.samples.items():
                if name.endswith("_bucket"):
                    continue
                kind = reading.kind(name)
                for sample in samples:
                    self._take(kind, (name, sample.labels), sample.value)

    def _take(self, kind: SampleKind, key: Key, value: float) -> None:
        if kind == "counter":
            before = self._known.get(key, 0.0)
            self._known[key] = value
            value = value - before if value >= before else value  # it began anew
            if value == 0:
                return
        self._buckets.setdefault(key, _Bucket(kind)).take(value)

    def _write(self) -> None:
        """Put the buckets of the minute that ended on disk, and delete what is too old."""
        minute, buckets = self._minute, self._buckets
        if minute is None:
            return
        database = self._opened()
        with database:
            rows = []
            for key, bucket in buckets.items():
                number = self._id(database, key, bucket.kind)
                if number is not None:
                    rows.append((number, bucket.total, bucket.low, bucket.high, bucket.count))
            hour = minute // HOUR_S * HOUR_S
            for table, start in (("minutes", minute), ("hours", hour)):
                database.executemany(
                    _ADD.format(table=table),
                    [(number, start, *rest) for number, *rest in rows],
                )
            database.execute("INSERT OR IGNORE INTO marks VALUES (?)", (minute,))
            self._delete_old(database, minute)
        self._buckets = {}

    def _delete_old(self, database: sqlite3.Connection, now: int) -> None:
        if now % HOUR_S:
            return  # once an hour is enough
        oldest = now - self._retention_s
        database.execute("DELETE FROM minutes WHERE time < ?", (now - MINUTES_KEPT_S,))
        database.execute("DELETE FROM hours WHERE time < ?", (oldest,))
        database.execute("DELETE FROM marks WHERE time < ?", (oldest,))
        database.execute("DELETE FROM series WHERE id NOT IN (SELECT series FROM hours)")
        found = database.execute("SELECT name, labels, id FROM series")
        self._ids = {(name, _read_labels(text)): number for name, text, number in found}

    def _id(self, database: sqlite3.Connection, key: Key, kind: SampleKind) -> int | None:
        number = self._ids.get(key)
        if number is None:
            if len(self._ids) >= SERIES_KEPT:
                self.refused += 1
                return None
            labels = json.dumps(dict(key[1]), separators=(",", ":"))
            number = database.execute(
                "INSERT INTO series (name, labels, kind) VALUES (?, ?, ?)",
                (key[0], labels, kind),
            ).lastrowid
            assert number is not None, "SQLite gives every row a number"
            self._ids[key] = number
        return number

    def names(self) -> list[str]:
        """The names that have a past, in order."""
        with self._lock:
            rows = self._opened().execute("SELECT DISTINCT name FROM series ORDER BY name")
            return [name for (name,) in rows]

    def increase(self, name: str, labels: Iterable[tuple[str, str]], since: float) -> float:
        """How much a counter grew from Unix time `since` on; 0 where it was not counted.

        Windows of up to a day go by minutes, longer ones by hours.
        """
        key = (name, tuple(sorted(labels)))
        with self._lock:
            number = self._ids.get(key)
            bucket = self._buckets.get(key)
            found = bucket.total if bucket is not None else 0.0
            if number is None:
                return found
            database = self._opened()
            newest = self._minute or 0
            table = "minutes" if newest - since <= MINUTES_KEPT_S else "hours"
            row = database.execute(
                f"SELECT total(total) FROM {table} WHERE series = ? AND time >= ?",
                (number, since),
            ).fetchone()
            return found + float(row[0])

    def range(
        self, name: str, *, since: float, until: float, step_s: int
    ) -> tuple[SampleKind | None, list[SeriesHistory]]:
        """The kind of a name, None for an unknown one, and its series in buckets of `step_s`.

        Steps are whole minutes; below an hour only the last day is known.
        """
        table = "minutes" if step_s < HOUR_S else "hours"
        start = int(since // step_s) * step_s
        with self._lock:
            database = self._opened()
            if table == "minutes":  # older ones are gone, which is not the same as "nothing"
                (newest,) = database.execute("SELECT max(time) FROM marks").fetchone()
                start = max(start, (newest or 0) - MINUTES_KEPT_S)
            marks = {
                time // step_s * step_s
                for (time,) in database.execute(
                    "SELECT time FROM marks WHERE time BETWEEN ? AND ?", (start, until)
                )
            }
            found = database.execute(
                "SELECT id, labels, kind FROM series WHERE name = ?", (name,)
            ).fetchall()
            answers = []
            for number, labels, kind in found:
                rows = database.execute(
                    "SELECT time / ? * ?, total(total), min(low), max(high), sum(count)"
                    f" FROM {table} WHERE series = ? AND time BETWEEN ? AND ? GROUP BY 1",
                    (step_s, step_s, number, start, until),
                )
                points = {row[0]: row[1:] for row in rows}
                if points:
                    listed = [
                        _point(time, kind, points.get(time)) for time in sorted(marks | set(points))
                    ]
                    answers.append(SeriesHistory(json.loads(labels), listed))
        return (found[0][2] if found else None), answers

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            raise sqlite3.ProgrammingError("the metrics' history is not open")
        return self._database


def _point(time: int, kind: SampleKind, row: tuple[float, float, float, int] | None) -> Point:
    if kind == "counter":
        return Point(time, 0.0 if row is None else row[0])
    if row is None:
        return Point(time, None)
    total, low, high, count = row
    return Point(time, total / count, low, high)


def _read_labels(text: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(json.loads(text).items()))
