"""Messages on disk: those that wait, those that were sent of late, and the dead."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from esper_async.nissa.database import Database
from esper_async.nissa.notify.wording import Alert

State = Literal["waiting", "sent", "dead"]
SENT_KEPT = 200
DEAD_KEPT = 1_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS notices (
    id INTEGER PRIMARY KEY AUTOINCREMENT, channel TEXT NOT NULL, state TEXT NOT NULL,
    alerts TEXT NOT NULL, made_at REAL NOT NULL, due_at REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, ended_at REAL, reason TEXT
);
CREATE TABLE IF NOT EXISTS told (
    channel TEXT NOT NULL, alert TEXT NOT NULL, time REAL NOT NULL, PRIMARY KEY (channel, alert)
);
"""
_COLUMNS = "id, channel, state, alerts, made_at, due_at, attempts, ended_at, reason"


@dataclass(frozen=True, slots=True)
class Notice:
    """A message to one channel about alerts of one name; times are Unix seconds."""

    id: int
    channel: str
    state: State
    alerts: list[dict[str, Any]]
    made_at: float
    due_at: float
    attempts: int
    ended_at: float | None
    reason: str | None

    def to_json(self) -> dict[str, Any]:
        """The message as the API shows it."""
        return {name: getattr(self, name) for name in self.__slots__}


class Outbox(Database):
    """The messages of a state directory."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, schema=_SCHEMA, what="the outbox")

    def put(self, channel: str, alerts: Sequence[Alert], now: float) -> None:
        """Add a message, and remember who has been told of what; it is due at once."""
        with self._lock, self._opened() as database:
            database.execute(
                "INSERT INTO notices (channel, state, alerts, made_at, due_at)"
                " VALUES (?, 'waiting', ?, ?, ?)",
                (channel, json.dumps([dict(alert) for alert in alerts]), now, now),
            )
            for alert in alerts:
                if alert["state"] == "resolved":
                    database.execute(
                        "DELETE FROM told WHERE channel = ? AND alert = ?", (channel, alert["id"])
                    )
                else:
                    database.execute(
                        "INSERT OR REPLACE INTO told VALUES (?, ?, ?)", (channel, alert["id"], now)
                    )

    def told(self) -> dict[tuple[str, str], float]:
        """When each (channel, alert id) was last told."""
        with self._lock:
            rows = self._opened().execute("SELECT channel, alert, time FROM told").fetchall()
        return {(channel, alert): time for channel, alert, time in rows}

    def due(self, now: float, limit: int = 20) -> list[Notice]:
        """Waiting messages whose time has come, oldest first."""
        return self._select("state = 'waiting' AND due_at <= ? ORDER BY id LIMIT ?", now, limit)

    def newest(self, state: State | None = None, *, limit: int = 100) -> list[Notice]:
        """Messages, of a state if one is named, newest first."""
        if state is None:
            return self._select("1 ORDER BY id DESC LIMIT ?", limit)
        return self._select("state = ? ORDER BY id DESC LIMIT ?", state, limit)

    def sent(self, notice_id: int, now: float) -> None:
        """Note that a channel took it."""
        with self._lock, self._opened() as database:
            database.execute(
                "UPDATE notices SET state = 'sent', ended_at = ?, attempts = attempts + 1,"
                " reason = NULL WHERE id = ?",
                (now, notice_id),
            )
            self._trim(database, "sent", SENT_KEPT)

    def failed(self, notice_id: int, reason: str, *, due_at: float | None, now: float) -> None:
        """Note why a channel did not take it; without a `due_at` it is dead."""
        state, ended_at = ("waiting", None) if due_at is not None else ("dead", now)
        with self._lock, self._opened() as database:
            database.execute(
                "UPDATE notices SET state = ?, ended_at = ?, attempts = attempts + 1, reason = ?,"
                " due_at = ? WHERE id = ?",
                (state, ended_at, reason[:500], due_at if due_at is not None else now, notice_id),
            )
            self._trim(database, "dead", DEAD_KEPT)

    def replay(self, notice_id: int, now: float) -> bool:
        """Make a dead message wait again; False when there is none of that number."""
        return self._change(
            "UPDATE notices SET state = 'waiting', attempts = 0, due_at = ?, ended_at = NULL"
            " WHERE id = ? AND state = 'dead'",
            now,
            notice_id,
        )

    def purge(self, notice_id: int) -> bool:
        """Throw a dead message away; False when there is none of that number."""
        return self._change("DELETE FROM notices WHERE id = ? AND state = 'dead'", notice_id)

    def counts(self) -> dict[str, int]:
        """How many messages are in each state."""
        with self._lock:
            rows = self._opened().execute("SELECT state, count(*) FROM notices GROUP BY state")
            return dict(rows.fetchall())

    def _trim(self, database: sqlite3.Connection, state: State, kept: int) -> None:
        database.execute(
            "DELETE FROM notices WHERE state = ? AND id NOT IN"
            " (SELECT id FROM notices WHERE state = ? ORDER BY id DESC LIMIT ?)",
            (state, state, kept),
        )

    def _change(self, sql: str, *values: object) -> bool:
        with self._lock, self._opened() as database:
            return database.execute(sql, values).rowcount > 0

    def _select(self, condition: str, *values: object) -> list[Notice]:
        # every condition is one of the constants above
        sql = f"SELECT {_COLUMNS} FROM notices WHERE {condition}"
        with self._lock:
            rows = self._opened().execute(sql, values).fetchall()
        return [_notice(*row) for row in rows]


def _notice(
    number: int,
    channel: str,
    state: State,
    alerts: str,
    made_at: float,
    due_at: float,
    attempts: int,
    ended_at: float | None,
    reason: str | None,
) -> Notice:
    told: list[dict[str, Any]] = json.loads(alerts)
    return Notice(number, channel, state, told, made_at, due_at, attempts, ended_at, reason)
