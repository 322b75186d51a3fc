"""The state directory: usable, versioned, and held by one supervisor at a time.

Its format is a whole number in the file `format`. One of an older format is taken to the present
one, step by step, when a supervisor starts on it; one that is newer, or too old, is refused.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esper_async.runtime.files import write_atomically
from esper_async.supervisor.errors import AlreadyRunningError, StateDirError

FORMAT_VERSION = 1
Migration = Callable[[Path], None]
MIGRATIONS: Mapping[int, Migration] = {}
"""How a directory of each older format becomes one of the next. Each may be run again after a crash
in its middle: the number in `format` changes only when it is done."""


def prepare(state_dir: Path) -> Path:
    """Make the directory (0700) if it is missing and check that it can be written.

    Returns its absolute path. Raises StateDirError naming the remedy.
    """
    path = state_dir.expanduser().absolute()
    remedy = "give another one with --state-dir DIR, or mend its permissions"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = path / f".writable.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except (FileExistsError, NotADirectoryError):
        raise StateDirError(f"state directory {path} is not a directory; {remedy}") from None
    except OSError as error:
        raise StateDirError(
            f"state directory {path} is not writable: {error.strerror}; {remedy}"
        ) from None
    return path


@contextmanager
def held(state_dir: Path) -> Iterator[None]:
    """Hold the directory for this process; raises AlreadyRunningError naming who holds it."""
    path = state_dir / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = path.read_text().strip() or "unknown"
            raise AlreadyRunningError(
                f"a supervisor (process {holder}) already runs on {state_dir}; look at it with "
                "`esper-supervisor status`, stop it with `esper-supervisor down`, or give another "
                "--state-dir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def announced(state_dir: Path, facts: Mapping[str, Any]) -> Iterator[None]:
    """Keep `supervisor.json` (pid, host, port, started_at) there for as long as one listens."""
    path = state_dir / "supervisor.json"
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(dict(facts)))
    scratch.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def format_of(state_dir: Path) -> int | None:
    """Return the format of a state directory, None for one that has none yet.

    Raises StateDirError when it is not a number.
    """
    try:
        text = (state_dir / "format").read_text().strip()
    except FileNotFoundError:
        return None
    if not text.isdecimal():
        raise StateDirError(
            f"state directory {state_dir} has format {text!r}, which is no number; restore a "
            "backup of it, or give a new --state-dir"
        )
    return int(text)


def upgrade(
    state_dir: Path,
    *,
    to: int = FORMAT_VERSION,
    migrations: Mapping[int, Migration] = MIGRATIONS,
) -> int:
    """Take a directory that is held by this process to format `to`; return the format it had.

    Raises StateDirError when it is newer, or so old that no way leads there; nothing was changed
    then. An OSError of a migration passes through: started again, it goes on where it was.
    """
    found = format_of(state_dir)
    if found is None:
        write_atomically(state_dir / "format", f"{to}\n".encode())
        return to
    steps = range(found, to)
    if found > to or any(step not in migrations for step in steps):
        raise StateDirError(
            f"state directory {state_dir} has format {found}, this version reads {to}; "
            "use the version of Esper that wrote it, or give a new --state-dir"
        )
    for step in steps:
        migrations[step](state_dir)
        write_atomically(state_dir / "format", f"{step + 1}\n".encode())
    return found
