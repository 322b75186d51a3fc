"""The tables of the experience store, and the rows that messages become."""

import sqlite3
from dataclasses import dataclass
from typing import NamedTuple

from esper_async.leyline import (
    DecisionRecord,
    FieldReport,
    FieldReportOutcome,
    SeedOperation,
    short_name,
)
from esper_async.simic.intake import Record

REPORT = "report"
DECISION = "decision"
_LATER_COLUMNS = {
    "policy": "TEXT NOT NULL DEFAULT ''",
    "operation": "TEXT NOT NULL DEFAULT ''",
    "blueprint": "TEXT NOT NULL DEFAULT ''",
    "outcome": "TEXT NOT NULL DEFAULT ''",
    "told_at": "REAL NOT NULL DEFAULT 0",
    "size": "INTEGER NOT NULL DEFAULT 0",
}
"""Columns that the first form of the table did not have."""
_TABLES = (
    # the message comes last: whoever asks for a column before it reads no message
    f"""CREATE TABLE IF NOT EXISTS experiences (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, id TEXT NOT NULL,
        run TEXT NOT NULL, boundary INTEGER NOT NULL, command TEXT NOT NULL,
        received_at REAL NOT NULL, {", ".join(map(" ".join, _LATER_COLUMNS.items()))},
        message BLOB NOT NULL, UNIQUE (kind, id)) STRICT""",
    """CREATE TABLE IF NOT EXISTS rejected (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL, type TEXT NOT NULL,
        reason TEXT NOT NULL, at REAL NOT NULL) STRICT""",
    """CREATE TABLE IF NOT EXISTS results (
        run TEXT PRIMARY KEY, terminal_gain REAL NOT NULL) STRICT""",
)
_INDEXES = (
    "CREATE INDEX IF NOT EXISTS experiences_by_run ON experiences (run, kind, seq)",
    "CREATE INDEX IF NOT EXISTS experiences_by_command ON experiences (command, run, kind)",
    "CREATE INDEX IF NOT EXISTS experiences_by_size ON experiences (kind, seq, size)",
    "DROP INDEX IF EXISTS experiences_by_kind",
    "CREATE INDEX IF NOT EXISTS experiences_by_age ON experiences (received_at)",
)


class Row(NamedTuple):
    """A message as it is stored; `told_at` is its sender's Unix time, `size` in bytes."""

    kind: str
    id: str
    run: str
    boundary: int
    command: str
    policy: str
    operation: str
    blueprint: str
    outcome: str
    told_at: float
    size: int
    message: bytes


@dataclass(frozen=True, slots=True)
class Query:
    """Which steps are meant; what is None does not matter.

    Args:
        run: of this run.
        policy: decided by this policy.
        operation: as "GERMINATE"; "" for a no-operation.
        blueprint: of the seed that the report is about.
        outcome: of the report, as "SUCCESS".
        reported: whether a report has arrived.
        since: decided at this Unix time or later.
        until: decided before this Unix time.
    """

    run: str | None = None
    policy: str | None = None
    operation: str | None = None
    blueprint: str | None = None
    outcome: str | None = None
    reported: bool | None = None
    since: float | None = None
    until: float | None = None

    def condition(self) -> tuple[str, list[object]]:
        """Return the SQL over `decision` that selects them, and its values."""
        plain = {
            "decision.run = ?": self.run,
            "decision.policy = ?": self.policy,
            "decision.operation = ?": self.operation,
            "decision.told_at >= ?": self.since,
            "decision.told_at < ?": self.until,
        }
        parts = [part for part, value in plain.items() if value is not None]
        values: list[object] = [value for value in plain.values() if value is not None]
        told = {"report.blueprint = ?": self.blueprint, "report.outcome = ?": self.outcome}
        about = [part for part, value in told.items() if value is not None]
        if about or self.reported is not None:
            exists = "NOT EXISTS" if self.reported is False else "EXISTS"
            joined = " AND ".join(
                ["report.command = decision.command", "report.run = decision.run",
                 "report.kind = 'report'", *about]
            )  # fmt: skip
            parts.append(f"{exists} (SELECT 1 FROM experiences AS report WHERE {joined})")
            values += [value for value in told.values() if value is not None]
        return " AND ".join(["decision.kind = 'decision'", *parts]), values


def prepare(database: sqlite3.Connection) -> None:
    """Create what is missing, and take a file of the first form to the present one."""
    for statement in _TABLES:
        database.execute(statement)
    known = {column[1] for column in database.execute("PRAGMA table_info(experiences)")}
    lacking = [name for name in _LATER_COLUMNS if name not in known]
    for name in lacking:
        database.execute(f"ALTER TABLE experiences ADD COLUMN {name} {_LATER_COLUMNS[name]}")
    for statement in _INDEXES:
        database.execute(statement)
    if lacking:
        _fill_later_columns(database)


def row_of(record: Record) -> Row:
    """Return a message as it is stored."""
    content = record.SerializeToString(deterministic=True)
    if isinstance(record, FieldReport):
        return Row(
            REPORT, record.report_id, record.run_id, record.boundary,
            record.command_id, "", "", record.blueprint_id,
            outcome_of(record),
            record.issued_at, len(content), content,
        )  # fmt: skip
    return Row(
        DECISION, record.decision_id, record.run_id, record.boundary,
        record.command.command_id, record.policy, operation_of(record), "", "",
        record.decided_at, len(content), content,
    )  # fmt: skip


def operation_of(decision: DecisionRecord) -> str:
    """Return what a command does to a seed, as "GERMINATE"; "" for any other command."""
    if not decision.command.HasField("seed"):
        return ""
    return short_name(SeedOperation, decision.command.seed.operation)


def outcome_of(report: FieldReport) -> str:
    """Return what came of a command, as "SUCCESS"."""
    return short_name(FieldReportOutcome, report.outcome)


def _fill_later_columns(database: sqlite3.Connection) -> None:
    last = 0
    names = ", ".join(f"{name} = ?" for name in _LATER_COLUMNS)
    while rows := database.execute(
        "SELECT seq, kind, message FROM experiences WHERE seq > ? ORDER BY seq LIMIT 1000", (last,)
    ).fetchall():
        for seq, kind, message in rows:
            read = FieldReport if kind == REPORT else DecisionRecord
            row = row_of(read.FromString(message))
            values = [getattr(row, name) for name in _LATER_COLUMNS]
            database.execute(f"UPDATE experiences SET {names} WHERE seq = ?", (*values, seq))
            last = seq
