"""Alerts on disk: what fired, who has seen it, and until when it is silent, over restarts."""

import json
from pathlib import Path

from esper_async.nissa.alerts import Alert
from esper_async.nissa.database import Database

_KEPT = 500
_SCHEMA = """
CREATE TABLE IF NOT EXISTS alerts (
    id TEXT PRIMARY KEY, started_at REAL NOT NULL, active INTEGER NOT NULL, body TEXT NOT NULL
);
"""


class AlertStore(Database):
    """The alerts of a state directory."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, schema=_SCHEMA, what="the alerts' store")

    def load(self) -> list[Alert]:
        """The alerts that are kept, oldest first."""
        with self._lock:
            rows = self._opened().execute("SELECT body FROM alerts ORDER BY started_at").fetchall()
        return [Alert.from_json(json.loads(body)) for (body,) in rows]

    def save(self, body: dict[str, object]) -> None:
        """Keep an alert (`Alert.to_json`) as it is now; the oldest resolved ones make room."""
        active = int(body["state"] != "resolved")
        with self._lock, self._opened() as database:
            database.execute(
                "INSERT OR REPLACE INTO alerts VALUES (?, ?, ?, ?)",
                (body["id"], body["started_at"], active, json.dumps(body)),
            )
            database.execute(
                "DELETE FROM alerts WHERE active = 0 AND id NOT IN"
                " (SELECT id FROM alerts ORDER BY started_at DESC LIMIT ?)",
                (_KEPT,),
            )
