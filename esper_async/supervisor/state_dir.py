"""The state directory: usable, versioned, and held by one supervisor at a time."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esper_async.supervisor.errors import AlreadyRunningError, StateDirError

FORMAT_VERSION = 1


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
    _check_format(path)
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


def _check_format(path: Path) -> None:
    marker = path / "format"
    try:
        text = marker.read_text().strip()
    except FileNotFoundError:
        marker.write_text(f"{FORMAT_VERSION}\n")
        return
    if text != str(FORMAT_VERSION):
        raise StateDirError(
            f"state directory {path} has format {text!r}, this version reads {FORMAT_VERSION}; "
            "use the version of Esper that wrote it, or give a new --state-dir"
        )
