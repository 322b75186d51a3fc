"""Effects that happen once: the event's id is recorded in the transaction of its effect.

with connection:                                    # one transaction
    if first_time(connection, envelope.event_id, group="simic"):
        connection.execute("INSERT INTO reports ...")
"""

import sqlite3
import time
from pathlib import Path

_TABLE = """
CREATE TABLE IF NOT EXISTS seen_events (
    consumer TEXT NOT NULL,
    event_id TEXT NOT NULL,
    seen_at REAL NOT NULL,
    PRIMARY KEY (consumer, event_id)
) WITHOUT ROWID
"""


def prepare_effects(connection: sqlite3.Connection) -> None:
    """Create the table `seen_events` where it is missing."""
    with connection:
        connection.execute(_TABLE)


def first_time(connection: sqlite3.Connection, event_id: str, *, group: str) -> bool:
    """Record the event for `group`; tell whether it had not been recorded before.

    Belongs into the transaction of the effect and rolls back with it. Raises RuntimeError on a
    connection in autocommit mode outside a transaction, where the two could come apart.
    """
    if connection.isolation_level is None and not connection.in_transaction:
        raise RuntimeError("first_time needs a transaction: use `with connection:` or BEGIN")
    done = connection.execute(
        "INSERT OR IGNORE INTO seen_events VALUES (?, ?, ?)", (group, event_id, time.time())
    )
    return done.rowcount == 1


class EffectLog:
    """What took effect, on disk, for a consumer whose effects are not in a database.

    Effect and record cannot come together then: record it after the effect, which must bear being
    done again after a crash between the two; a copy of the message that comes later changes
    nothing. Events are forgotten after `kept_s`.
    """

    def __init__(self, path: Path, *, group: str, kept_s: float = 30 * 86_400.0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._group = group
        self._database = sqlite3.connect(path)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        prepare_effects(self._database)
        forget_events(self._database, older_than_s=kept_s)

    def __contains__(self, event_id: str) -> bool:
        ask = "SELECT 1 FROM seen_events WHERE consumer = ? AND event_id = ?"
        return self._database.execute(ask, (self._group, event_id)).fetchone() is not None

    def record(self, event_id: str) -> None:
        """Write down that the event took effect, and fsync."""
        with self._database:
            first_time(self._database, event_id, group=self._group)

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._database.close()


def forget_events(connection: sqlite3.Connection, *, older_than_s: float) -> int:
    """Forget events seen longer ago than any redelivery can take; return how many."""
    with connection:
        done = connection.execute(
            "DELETE FROM seen_events WHERE seen_at < ?", (time.time() - older_than_s,)
        )
    return done.rowcount
