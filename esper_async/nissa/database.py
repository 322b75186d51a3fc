"""A database of the state directory that is opened, closed and opened again with its service."""

import sqlite3
import threading
from pathlib import Path


class Database:
    """One SQLite file, closed until `open`. Calls block and may be threads'.

    Args:
        path: where it is.
        schema: what makes its tables where there are none.
        what: what it holds, for the message when it is not open.
    """

    def __init__(self, path: Path, *, schema: str, what: str) -> None:
        self._path = path
        self._schema = schema
        self._what = what
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the database, making it if there is none; raises sqlite3.Error."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self._path, check_same_thread=False)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(self._schema)
        self._database = database

    def close(self) -> None:
        """Close; it can be opened again. Idempotent."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            raise sqlite3.ProgrammingError(f"{self._what} is not open")
        return self._database
