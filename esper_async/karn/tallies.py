"""How often each blueprint was asked for and what came of it: counts that survive restarts."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

Outcome = Literal["success", "neutral", "regression", "aborted"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    blueprint_id TEXT PRIMARY KEY,
    count INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS numbered_requests (
    request_id TEXT PRIMARY KEY,
    blueprint_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outcomes (
    report_id TEXT NOT NULL,
    blueprint_id TEXT NOT NULL,
    outcome TEXT NOT NULL,
    PRIMARY KEY (report_id, blueprint_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS outcomes_by_blueprint ON outcomes (blueprint_id, outcome);
"""


@dataclass(frozen=True, slots=True)
class Tally:
    """One blueprint's counts: requests, and reports by outcome."""

    requests: int = 0
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))


class Tallies:
    """The counts, in one SQLite file. What has an id counts once, however often it arrives.

    One connection per call, so that any thread may use it; each call is one transaction, durable
    when it returns.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._connection() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(_SCHEMA)

    def count_request(self, blueprint_id: str, request_id: str = "") -> None:
        """Count one request for a blueprint; one with an id only once."""
        with self._connection() as connection:
            if request_id:
                connection.execute(
                    "INSERT OR IGNORE INTO numbered_requests VALUES (?, ?)",
                    (request_id, blueprint_id),
                )
                return
            connection.execute(
                "INSERT INTO requests VALUES (?, 1) "
                "ON CONFLICT (blueprint_id) DO UPDATE SET count = count + 1",
                (blueprint_id,),
            )

    def count_outcome(self, report_id: str, blueprint_id: str, outcome: Outcome) -> bool:
        """Count what a field report says of a blueprint; False if this report was counted before.

        Raises:
            ValueError: the outcome is none of the four.
        """
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome {outcome!r} is none of {', '.join(OUTCOMES)}")
        with self._connection() as connection:
            cursor = connection.execute(
                "INSERT OR IGNORE INTO outcomes VALUES (?, ?, ?)",
                (report_id, blueprint_id, outcome),
            )
            return cursor.rowcount == 1

    def touch(self) -> None:
        """Take the write lock and give it back: whether counts can be kept now."""
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")

    def read(self) -> dict[str, Tally]:
        """Return every blueprint's counts by id; one never asked for is absent."""
        with self._connection() as connection:
            requests = connection.execute(
                "SELECT blueprint_id, SUM(count) FROM (SELECT blueprint_id, count FROM requests "
                "UNION ALL SELECT blueprint_id, 1 FROM numbered_requests) GROUP BY 1"
            ).fetchall()
            rows = connection.execute(
                "SELECT blueprint_id, outcome, COUNT(*) FROM outcomes GROUP BY 1, 2"
            ).fetchall()
        tallies = {blueprint_id: Tally(requests=count) for blueprint_id, count in requests}
        for blueprint_id, outcome, count in rows:
            tallies.setdefault(blueprint_id, Tally()).outcomes[outcome] = count
        return tallies

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=5.0)) as connection, connection:
            connection.execute("PRAGMA synchronous=FULL")
            yield connection
