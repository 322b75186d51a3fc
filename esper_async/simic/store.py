"""The experience store: reports and decision records, each once, whatever order they come in."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from google.protobuf.message import Message

from esper_async.leyline import DecisionRecord, FieldReport
from esper_async.oona.effects import first_time, forget_events, prepare_effects
from esper_async.simic.intake import Experience, MalformedError, admitted
from esper_async.simic.trajectory import Trajectory, join

GROUP = "simic"
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS experiences (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, id TEXT NOT NULL,
        run TEXT NOT NULL, boundary INTEGER NOT NULL, command TEXT NOT NULL,
        received_at REAL NOT NULL, message BLOB NOT NULL, UNIQUE (kind, id)) STRICT""",
    "CREATE INDEX IF NOT EXISTS experiences_by_run ON experiences (run, kind, seq)",
    "CREATE INDEX IF NOT EXISTS experiences_by_command ON experiences (command, run, kind)",
    "CREATE INDEX IF NOT EXISTS experiences_by_kind ON experiences (kind, seq)",
    "CREATE INDEX IF NOT EXISTS experiences_by_age ON experiences (received_at)",
    """CREATE TABLE IF NOT EXISTS rejected (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL, type TEXT NOT NULL,
        reason TEXT NOT NULL, at REAL NOT NULL) STRICT""",
)
_REPORT = "report"
_DECISION = "decision"
_PRUNE_EVERY = 256
_REJECTED_KEPT = 1_000


class Intake(StrEnum):
    """What became of a message."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept: the newest `entries` of each kind, none older than `age_s`."""

    entries: int = 100_000
    age_s: float = 180 * 86_400.0
    seen_age_s: float = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Rejection:
    """A message that was refused, and why; `at` in Unix seconds."""

    event: str
    type: str
    reason: str
    at: float


class ExperienceStore:
    """Experience in `path`; durable when `take` returns.

    Thread-safe and blocking; raises sqlite3.Error. The event's id is recorded in the transaction
    that stores its message, so that a message delivered again has no effect.
    """

    def __init__(
        self, path: Path, *, now: Callable[[], float], bounds: Bounds | None = None
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._now = now
        self._bounds = bounds or Bounds()
        self._lock = threading.Lock()
        self._since_prune = 0
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        prepare_effects(self._connection)
        with self._writing() as database:
            for statement in _SCHEMA:
                database.execute(statement)
        self.prune()

    def take(self, message: Message, event_id: str) -> Intake:
        """Store a message once; one that is malformed is counted with its reason instead."""
        with self._writing() as database:
            if not first_time(database, event_id, group=GROUP):
                return Intake.DUPLICATE
            try:
                result = self._store(database, admitted(message))
            except MalformedError as malformed:
                self._reject(database, event_id, message, str(malformed))
                result = Intake.REJECTED
        self._since_prune += 1
        if self._since_prune >= _PRUNE_EVERY:
            self.prune()
        return result

    def reports(
        self, run: str | None = None, *, limit: int = 1_000, after: int = 0
    ) -> list[tuple[int, FieldReport]]:
        """Reports in order of arrival, of one run or of all, from sequence `after` on.

        Each comes with its sequence number, which is the next page's `after`.
        """
        rows = self._messages(_REPORT, run, limit, after)
        return [(seq, FieldReport.FromString(message)) for seq, message in rows]

    def decisions(
        self, run: str | None = None, *, limit: int = 1_000, after: int = 0
    ) -> list[tuple[int, DecisionRecord]]:
        """Decision records, as `reports`."""
        rows = self._messages(_DECISION, run, limit, after)
        return [(seq, DecisionRecord.FromString(message)) for seq, message in rows]

    def trajectory(self, run: str) -> Trajectory:
        """What has arrived of a run, joined; empty for a run nobody has heard of."""
        return join(
            run,
            [decision for _, decision in self.decisions(run, limit=-1)],
            [report for _, report in self.reports(run, limit=-1)],
        )

    def trajectories(self, run: str | None = None) -> Iterator[Trajectory]:
        """The trajectory of one run, or of every run, one at a time."""
        for name in self.runs() if run is None else [run]:
            yield self.trajectory(name)

    def runs(self) -> list[str]:
        """The runs of which something is kept, in order of name."""
        with self._reading() as database:
            rows = database.execute("SELECT DISTINCT run FROM experiences ORDER BY run").fetchall()
        return [str(row[0]) for row in rows]

    def count(self) -> dict[str, int]:
        """How many reports and decisions are kept, and how many messages were rejected.

        `joined` are the reports whose decision is here, too.
        """
        with self._reading() as database:
            rows = database.execute("SELECT kind, COUNT(*) FROM experiences GROUP BY kind")
            kinds = {str(kind): int(count) for kind, count in rows.fetchall()}
            joined = database.execute(
                "SELECT COUNT(*) FROM experiences AS report WHERE kind = ? AND EXISTS ("
                "SELECT 1 FROM experiences"
                " WHERE command = report.command AND run = report.run AND kind = ?)",
                (_REPORT, _DECISION),
            ).fetchone()
            rejected = database.execute("SELECT COALESCE(MAX(seq), 0) FROM rejected").fetchone()
        return {
            "reports": kinds.get(_REPORT, 0),
            "decisions": kinds.get(_DECISION, 0),
            "joined": int(joined[0]),
            "rejected": int(rejected[0]),
        }

    def rejections(self, limit: int = 100) -> list[Rejection]:
        """The latest refused messages, newest first."""
        with self._reading() as database:
            rows = database.execute(
                "SELECT event, type, reason, at FROM rejected ORDER BY seq DESC LIMIT ?", (limit,)
            ).fetchall()
        return [Rejection(*row) for row in rows]

    def prune(self) -> int:
        """Drop what exceeds the bounds, oldest first; how many experiences that were."""
        self._since_prune = 0
        now = self._now()
        with self._writing() as database:
            dropped = database.execute(
                "DELETE FROM experiences WHERE received_at < ?", (now - self._bounds.age_s,)
            ).rowcount
            for kind in (_REPORT, _DECISION):
                dropped += database.execute(
                    "DELETE FROM experiences WHERE kind = ? AND seq <= (SELECT seq FROM"
                    " experiences WHERE kind = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)",
                    (kind, kind, self._bounds.entries),
                ).rowcount
            database.execute(
                "DELETE FROM rejected WHERE seq <= (SELECT MAX(seq) - ? FROM rejected)",
                (_REJECTED_KEPT,),
            )
        with self._lock:
            forget_events(self._connection, older_than_s=self._bounds.seen_age_s)
        return dropped

    def close(self) -> None:
        """Close the file; the store is of no use afterwards."""
        with self._lock:
            self._connection.close()

    def _store(self, database: sqlite3.Connection, experience: Experience) -> Intake:
        """Insert; the same id again is a duplicate, with other content a malformed message."""
        if isinstance(experience, FieldReport):
            kind, name, command = _REPORT, experience.report_id, experience.command_id
        else:
            kind, name, command = _DECISION, experience.decision_id, experience.command.command_id
        content = experience.SerializeToString(deterministic=True)
        known = database.execute(
            "SELECT message FROM experiences WHERE kind = ? AND id = ?", (kind, name)
        ).fetchone()
        if known is not None:
            if known[0] != content:
                raise MalformedError(f"{kind} {name} is already stored with other content")
            return Intake.DUPLICATE
        database.execute(
            "INSERT INTO experiences (kind, id, run, boundary, command, received_at, message)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (kind, name, experience.run_id, experience.boundary, command, self._now(), content),
        )
        return Intake.STORED

    def _reject(
        self, database: sqlite3.Connection, event_id: str, message: Message, reason: str
    ) -> None:
        database.execute(
            "INSERT INTO rejected (event, type, reason, at) VALUES (?, ?, ?, ?)",
            (event_id, message.DESCRIPTOR.name, reason, self._now()),
        )

    def _messages(
        self, kind: str, run: str | None, limit: int, after: int
    ) -> list[tuple[int, bytes]]:
        where, values = ("", []) if run is None else (" AND run = ?", [run])
        with self._reading() as database:
            return database.execute(
                "SELECT seq, message FROM experiences WHERE kind = ? AND seq > ?"
                + where
                + " ORDER BY seq LIMIT ?",
                [kind, after, *values, limit],
            ).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            yield self._connection
