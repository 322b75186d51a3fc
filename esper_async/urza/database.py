"""The catalogue's SQLite file: opened, shared between processes, and replaced when it is damaged.

`catalogue.sqlite` is a link to the current generation `catalogue-NNNN.sqlite`. A damaged
generation is never repaired in place: a new one is filled from the sidecars and the link moved.
(Renaming a database under another process would let that process delete the new one's WAL.)
Other processes notice the moved link before their next statement and follow it.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from esper_async.runtime.files import sync_directory

T = TypeVar("T")
Generation = tuple[int, int]
Fill = Callable[[sqlite3.Connection, "str | None", "Path | None"], None]

_LINK = "catalogue.sqlite"
_DAMAGE = (
    "SQLITE_CORRUPT",
    "SQLITE_NOTADB",
    "SQLITE_FORMAT",
    "SQLITE_MISMATCH",
    "SQLITE_ERROR",  # our statements are fixed: "no such table" can only mean a damaged schema
    "SQLITE_IOERR_SHORT_READ",
    "SQLITE_READONLY_DBMOVED",
)


class _NotACatalogueError(sqlite3.DatabaseError):
    """The file opens, but it is not one that we made."""


class Database:
    """One connection, used by one thread at a time.

    `fill(connection, reason, damaged)` creates the tables of a new generation and fills them
    from what else is on disk; `reason` is the damage that made it necessary and `damaged` the
    file it was found in, both None when there was no database. It runs inside a transaction,
    with every other process that wants to do the same kept waiting. It leaves `schema_version` in
    the file's `user_version`; a file of another version is replaced as a damaged one is.
    `on_rebuilt` is told the reason of each rebuilding.
    """

    def __init__(
        self,
        directory: Path,
        fill: Fill,
        *,
        schema_version: int,
        on_rebuilt: Callable[[str], None],
        busy_timeout_s: float = 5.0,
    ) -> None:
        self._directory = directory
        self._on_rebuilt = on_rebuilt
        self._schema_version = schema_version
        self._link = directory / _LINK
        self._fill = fill
        self._busy_timeout_s = busy_timeout_s
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._opened = (0, 0)
        self._openings = 0

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run statements that change nothing. Raises sqlite3.Error, OSError."""
        return self._run(work)

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in one immediate transaction, committed when it returns.

        `work` may be run a second time, on a rebuilt database. Raises sqlite3.Error, OSError,
        and whatever `work` raises, with nothing of it kept.
        """
        return self._run(lambda connection: _transact(connection, work))

    @property
    def openings(self) -> int:
        """How often a file has been opened: another number, maybe another file."""
        return self._openings

    def generation(self) -> Generation:
        """A value that differs once another connection has committed. Raises sqlite3.Error."""
        return self._run(self._generation_of)

    def generation_now(self) -> Generation | None:
        """The same without waiting: None while the connection is in use, (0, 0) when closed."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            if self._connection is None or _identity(self._link) != self._opened:
                return (0, 0)
            return self._generation_of(self._connection)
        except (sqlite3.Error, OSError):
            return (0, 0)
        finally:
            self._lock.release()

    def _generation_of(self, connection: sqlite3.Connection) -> Generation:
        version: int = connection.execute("PRAGMA data_version").fetchone()[0]
        return (self._openings, version)

    def rebuild(self, reason: str) -> None:
        """Put a new generation in the place of the one that is open, unless somebody has."""
        with self._lock:
            opened = self._opened
            self.close()
            with self._alone():
                ours = _identity(self._link) == opened
                if ours:
                    self._make_generation(reason)
        if ours:
            self._on_rebuilt(reason)

    def close(self) -> None:
        """Close the connection; the next statement opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                return work(self._current())
            except sqlite3.Error as error:
                if not self._is_damage(error):
                    raise
                self.rebuild(f"{getattr(error, 'sqlite_errorname', '')}: {error}")
            return work(self._current())

    def _current(self) -> sqlite3.Connection:
        identity = _identity(self._link)
        if self._connection is not None and identity == self._opened:
            return self._connection
        self.close()
        if identity == (0, 0):
            with self._alone():
                if _identity(self._link) == (0, 0):
                    self._make_generation(None)
        self._opened = _identity(self._link)
        self._connection = self._open(self._link, new=False)
        self._openings += 1
        return self._connection

    def _make_generation(self, reason: str | None) -> None:
        """Fill a new file, then move the link; a crash in between leaves only an unused file."""
        existing = sorted(self._directory.glob("catalogue-*.sqlite"))
        number = max((int(path.stem.rpartition("-")[2]) for path in existing), default=0) + 1
        target = self._directory / f"catalogue-{number:04d}.sqlite"
        damaged = self._link.resolve() if reason is not None else None
        connection = self._open(target, new=True)
        try:
            _transact(connection, lambda opened: self._fill(opened, reason, damaged))
        finally:
            connection.close()
        temporary = self._directory / f".{_LINK}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.name)
        temporary.replace(self._link)
        sync_directory(self._directory)
        for path in existing[:-1]:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)

    def _open(self, path: Path, *, new: bool) -> sqlite3.Connection:
        connection = sqlite3.connect(
            path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = _lenient_text
        try:
            wanted = "PRAGMA journal_mode=WAL" if new else "PRAGMA journal_mode"
            if connection.execute(wanted).fetchone()[0] != "wal":
                raise _NotACatalogueError(f"{path.name} is empty or not in WAL mode")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if not new and version != self._schema_version:
                raise _NotACatalogueError(f"{path.name} is of schema {version}")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA cell_size_check=ON")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _is_damage(self, error: sqlite3.Error) -> bool:
        if isinstance(error, _NotACatalogueError):
            return True
        name = getattr(error, "sqlite_errorname", "")
        if name == "SQLITE_READONLY":  # a flipped bit can mark the file read-only
            return os.access(self._link, os.W_OK) and os.access(self._directory, os.W_OK)
        return name.startswith(_DAMAGE)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock that only one process has while it makes a generation."""
        with (self._directory / "catalogue.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _transact(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def _identity(path: Path) -> tuple[int, int]:
    """Device and inode of what the link points to; (0, 0) when there is nothing."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (status.st_dev, status.st_ino)


def _lenient_text(raw: bytes) -> str:
    """Decode damaged text too, so that its digest can refuse it."""
    return raw.decode("utf-8", "replace")
