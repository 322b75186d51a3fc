"""The experience store: reports and decision records, each once, whatever order they come in."""

import math
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from google.protobuf.message import Message

from esper_async.leyline import DecisionRecord, FieldReport
from esper_async.oona.effects import first_time, forget_events, prepare_effects
from esper_async.simic.experience import Experience
from esper_async.simic.intake import MalformedError, Record, admitted
from esper_async.simic.schema import DECISION, REPORT, Query, prepare, row_of
from esper_async.simic.steps import Key, keys_of, steps_of
from esper_async.simic.trajectory import Trajectory, join

GROUP = "simic"
_PRUNE_EVERY = 256
_REJECTED_KEPT = 1_000
_SAMPLE_TRIES = 8
_INSERT = """INSERT INTO experiences (kind, id, run, boundary, command, policy, operation,
    blueprint, outcome, told_at, size, message, received_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""


class Intake(StrEnum):
    """What became of a message."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept: the newest, at most so many of each kind, none older, no more bytes.

    `size_bytes` counts messages; the file has its indexes beside them. Bounds are held at each
    start and after every 256 messages.
    """

    entries: int = 100_000
    size_bytes: int = 1 << 30
    age_s: float = 180 * 86_400.0
    seen_age_s: float = 30 * 86_400.0


UNBOUNDED = Bounds(entries=1 << 62, size_bytes=1 << 62, age_s=math.inf, seen_age_s=math.inf)
"""For those who stand beside a supervisor: they drop nothing."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A message that was refused, and why; `at` in Unix seconds."""

    event: str
    type: str
    reason: str
    at: float


def experience_path(state_dir: Path) -> Path:
    """Return where a state directory keeps its experience."""
    return state_dir / "simic" / "experience.sqlite"


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
            prepare(database)
        self._size_bytes = 0
        self._report_seqs: list[int] = []
        self._look_again()
        self.prune()

    @classmethod
    def of(cls, state_dir: Path) -> "ExperienceStore":
        """Open that of a state directory, to be read beside its supervisor: nothing is dropped.

        Raises FileNotFoundError where there is none yet.
        """
        path = experience_path(state_dir)
        if not path.exists():
            raise FileNotFoundError(f"there is no experience at {path}")
        return cls(path, now=time.time, bounds=UNBOUNDED)

    @property
    def size_bytes(self) -> int:
        """Bytes of all messages that are kept."""
        return self._size_bytes

    def take(self, message: Message, event_id: str) -> Intake:
        """Store a message once; one that is malformed is counted with its reason instead."""
        return self.take_many([(message, event_id)])[0]

    def take_many(self, arrived: Sequence[tuple[Message, str]]) -> list[Intake]:
        """Store several messages, each with its event's id, as `take`; all of them or none.

        They wait for the disk once.
        """
        try:
            with self._writing() as database:
                results = [self._take(database, *each) for each in arrived]
        except BaseException:
            self._look_again()
            raise
        self._since_prune += len(results)
        if self._since_prune >= _PRUNE_EVERY:
            self.prune()
        return results

    def reports(
        self, run: str | None = None, *, limit: int = 1_000, after: int = 0
    ) -> list[tuple[int, FieldReport]]:
        """Reports in order of arrival, of one run or of all, from sequence `after` on.

        Each comes with its sequence number, which is the next page's `after`.
        """
        rows = self._messages(REPORT, run, limit, after)
        return [(seq, FieldReport.FromString(message)) for seq, message in rows]

    def decisions(
        self, run: str | None = None, *, limit: int = 1_000, after: int = 0
    ) -> list[tuple[int, DecisionRecord]]:
        """Decision records, as `reports`."""
        rows = self._messages(DECISION, run, limit, after)
        return [(seq, DecisionRecord.FromString(message)) for seq, message in rows]

    def trajectory(self, run: str) -> Trajectory:
        """What has arrived of a run, joined; empty for a run nobody has heard of."""
        return join(
            run,
            [decision for _, decision in self.decisions(run, limit=-1)],
            [report for _, report in self.reports(run, limit=-1)],
            terminal_gain=self.terminal_gain(run),
        )

    def trajectories(self, run: str | None = None) -> Iterator[Trajectory]:
        """The trajectory of one run, or of every run, one at a time."""
        for name in self.runs() if run is None else [run]:
            yield self.trajectory(name)

    def experiences(
        self, query: Query | None = None, *, limit: int = 1_000, after: int = 0
    ) -> list[tuple[int, Experience]]:
        """The steps that a query means, in order of arrival of their decisions, with rewards.

        Each comes with its sequence number, which is the next page's `after`.
        """
        where, values = (query or Query()).condition()
        with self._reading() as database:
            rows = database.execute(
                "SELECT seq, run, command FROM experiences AS decision WHERE seq > ? AND "
                + where
                + " ORDER BY seq LIMIT ?",
                [after, *values, limit],
            ).fetchall()
            found = steps_of(database, [(run, command) for _, run, command in rows])
        return [(seq, found[run, command]) for seq, run, command in rows if (run, command) in found]

    def sample(self, count: int, source: random.Random) -> list[Experience]:
        """Draw steps that have been reported on, evenly and none twice; fewer if there are fewer.

        A report whose decision has not arrived is none of them; where most lack theirs, fewer
        may come than there are.
        """
        drawn: dict[Key, Experience] = {}
        with self._reading() as database:
            wanted = min(count, len(self._report_seqs))
            for _ in range(_SAMPLE_TRIES):
                seqs = source.sample(self._report_seqs, wanted)
                keys = [key for key in keys_of(database, seqs) if key not in drawn]
                drawn.update(steps_of(database, keys[: wanted - len(drawn)]))
                if len(drawn) == wanted:
                    break
        return list(drawn.values())

    def tell_result(self, run: str, *, terminal_gain: float) -> None:
        """Note a run's result on the decision split over that of its pair that did not grow.

        Whoever ran both tells it, in nats (or per cent of the loss), larger is better. Telling it
        again replaces it. Raises ValueError for what is no number.
        """
        if not math.isfinite(terminal_gain):
            raise ValueError(f"the result of run {run} is not finite: {terminal_gain}")
        with self._writing() as database:
            database.execute("REPLACE INTO results VALUES (?, ?)", (run, terminal_gain))

    def terminal_gain(self, run: str) -> float | None:
        """What `tell_result` noted of a run; None where nobody did."""
        with self._reading() as database:
            row = database.execute(
                "SELECT terminal_gain FROM results WHERE run = ?", (run,)
            ).fetchone()
        return None if row is None else float(row[0])

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
                (REPORT, DECISION),
            ).fetchone()
            rejected = database.execute("SELECT COALESCE(MAX(seq), 0) FROM rejected").fetchone()
        return {
            "reports": kinds.get(REPORT, 0),
            "decisions": kinds.get(DECISION, 0),
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
        with self._writing() as database:
            dropped = database.execute(
                "DELETE FROM experiences WHERE received_at < ?",
                (self._now() - self._bounds.age_s,),
            ).rowcount
            for kind in (REPORT, DECISION):
                dropped += database.execute(
                    "DELETE FROM experiences WHERE kind = ? AND seq <= (SELECT seq FROM"
                    " experiences WHERE kind = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)",
                    (kind, kind, self._bounds.entries),
                ).rowcount
            dropped += self._drop_bytes(database)
            if dropped:
                database.execute(
                    "DELETE FROM results WHERE run NOT IN (SELECT run FROM experiences)"
                )
            database.execute(
                "DELETE FROM rejected WHERE seq <= (SELECT MAX(seq) - ? FROM rejected)",
                (_REJECTED_KEPT,),
            )
        with self._lock:
            forget_events(self._connection, older_than_s=self._bounds.seen_age_s)
        if dropped:
            self._look_again()
        return dropped

    def close(self) -> None:
        """Close the file; the store is of no use afterwards."""
        with self._lock:
            self._connection.close()

    def _take(self, database: sqlite3.Connection, message: Message, event_id: str) -> Intake:
        if not first_time(database, event_id, group=GROUP):
            return Intake.DUPLICATE
        try:
            return self._store(database, admitted(message))
        except MalformedError as malformed:
            self._reject(database, event_id, message, str(malformed))
            return Intake.REJECTED

    def _store(self, database: sqlite3.Connection, record: Record) -> Intake:
        """Insert; the same id again is a duplicate, with other content a malformed message."""
        row = row_of(record)
        known = database.execute(
            "SELECT message FROM experiences WHERE kind = ? AND id = ?", (row.kind, row.id)
        ).fetchone()
        if known is not None:
            if known[0] != row.message:
                raise MalformedError(f"{row.kind} {row.id} is already stored with other content")
            return Intake.DUPLICATE
        done = database.execute(_INSERT, (*row, self._now()))
        self._size_bytes += row.size
        if row.kind == REPORT and done.lastrowid is not None:
            self._report_seqs.append(done.lastrowid)
        return Intake.STORED

    def _drop_bytes(self, database: sqlite3.Connection) -> int:
        """Drop the oldest until the messages take no more than they may; how many that were."""
        if self._size_bytes <= self._bounds.size_bytes:
            return 0
        (held,) = database.execute("SELECT COALESCE(SUM(size), 0) FROM experiences").fetchone()
        excess, cut = held - self._bounds.size_bytes, None
        if excess <= 0:
            return 0
        for seq, size in database.execute("SELECT seq, size FROM experiences ORDER BY seq"):
            excess, cut = excess - size, seq
            if excess <= 0:
                break
        return database.execute("DELETE FROM experiences WHERE seq <= ?", (cut,)).rowcount

    def _look_again(self) -> None:
        """Count bytes and list reports anew: some were dropped, or a transaction was undone."""
        with self._reading() as database:
            held = database.execute("SELECT COALESCE(SUM(size), 0) FROM experiences").fetchone()
            rows = database.execute(
                "SELECT seq FROM experiences WHERE kind = ? ORDER BY seq", (REPORT,)
            ).fetchall()
            self._size_bytes = int(held[0])
            self._report_seqs = [row[0] for row in rows]

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
