"""A copy of a state directory, also of one that is in use, in one file.

What is replaced atomically is held by hard links, databases are copied by SQLite's own backup,
what is only appended to is cut at its last whole line. The order is that of a crash: checkpoints
before the journal that goes beyond them, what the controller has read in journals before those,
spools before the stores that what they hold goes to. So a
restored directory is one whose supervisor was killed at some instant, which it can go on from; what
a spool still holds is delivered again, and has its effect once.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper_async.supervisor.errors import BackupError, WrongBackupError
from esper_async.supervisor.state_dir import FORMAT_VERSION, format_of

MANIFEST = "esper-backup.json"
BACKUP_VERSION = 1
_STAGE = ".backup"
_TRIES = 5
_IMMUTABLE = ("checkpoints", "blobs")
_PASSING = ("lock", "supervisor.json", "redis.conf")
_FIRST = (
    "redis", "tamiyo", "state.json", "result.json", "checkpoints", "journal.jsonl",
    "requests.jsonl",
)  # fmt: skip
_LAST = ("oona", "spool", "simic", "tolaria", "karn", "nissa", "tezzeret", "urza")


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that is on disk: so many files of the state directory, in a file of that size."""

    path: Path
    files: int
    size_bytes: int
    runs: int


def back_up(state_dir: Path, target: Path, *, version: str = "") -> Backup:
    """Copy a state directory into the tar file `target` (0600), durable when this returns.

    The directory may be in use. `version` is of the program, for people to read. Raises BackupError
    when there is no state directory, when the target is inside it or exists, or the disk refuses.
    """
    state_dir, target = state_dir.absolute(), target.absolute()
    _check(state_dir, target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with _staged(state_dir) as stage:
            _fill(state_dir, stage)
            files = _files_in(stage)
            manifest = _manifest(stage, files, version)
            _write(temporary, stage, files, manifest)
        temporary.replace(target)
    except (OSError, sqlite3.Error) as error:
        raise BackupError(f"{state_dir} could not be backed up to {target}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    runs = len({path.parts[1] for path in files if path.parts[0] == "runs"})
    return Backup(target, len(files), target.stat().st_size, runs)


def _check(state_dir: Path, target: Path) -> None:
    if not (state_dir / "format").is_file():
        raise WrongBackupError(f"{state_dir} is no state directory; name it with --state-dir DIR")
    if target.is_relative_to(state_dir):
        raise WrongBackupError(f"{target} would be inside what it is a copy of; name another place")
    if target.exists():
        raise WrongBackupError(f"{target} is there already; name another file, or remove it")
    if not target.parent.is_dir():
        raise WrongBackupError(f"there is no folder {target.parent}; make it first")


@contextmanager
def _staged(state_dir: Path) -> Iterator[Path]:
    """Give a folder on the disk of the state directory, so that hard links are possible."""
    stage = state_dir / f"{_STAGE}-{os.getpid()}"
    stage.mkdir(mode=0o700)
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _fill(state_dir: Path, stage: Path) -> None:
    paths = [path for path in _walk(state_dir) if not _passes(path)]
    for path in sorted(paths, key=lambda path: _place_in_order(path.relative_to(state_dir))):
        copy = stage / path.relative_to(state_dir)
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # replaced or dropped meanwhile: as if earlier
            _copy(path, copy)
    for state in stage.glob("runs/*/checkpoints/*.json"):
        if not state.with_suffix(".pt").exists():
            state.unlink()  # the checkpoint was dropped between the two; there is a newer one
    _copy_append_only_files(state_dir / "redis", stage / "redis")


def _passes(path: Path) -> bool:
    """Whether a file means something only while its process lives."""
    return path.name in _PASSING or path.suffix == ".lock"


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue  # temporary files and the stage itself
        if path.is_dir() and not path.is_symlink():
            if path.name != "appendonlydir":
                yield from _walk(path)
        elif path.is_symlink() or path.is_file():
            yield path


def _place_in_order(path: Path) -> tuple[int, str]:
    parts = set(path.parts)
    first = next((n for n, name in enumerate(_FIRST) if name in parts), None)
    if first is not None:
        return first, str(path)
    last = next((n for n, name in enumerate(_LAST) if name in parts), -1)
    return len(_FIRST) + 1 + last, str(path)


def _copy(path: Path, copy: Path) -> None:
    """Copy one file in the way that its kind allows while others write to it."""
    if path.is_symlink():
        copy.symlink_to(path.readlink())
    elif path.suffix == ".sqlite":
        _copy_database(path, copy)
    elif path.name.endswith((".sqlite-wal", ".sqlite-shm")):
        return  # SQLite's backup has what is in them
    elif _is_immutable(path):
        os.link(path, copy)
    elif path.suffix == ".jsonl":
        content = path.read_bytes()
        copy.write_bytes(content[: content.rfind(b"\n") + 1])
        copy.chmod(0o600)
    else:
        shutil.copyfile(path, copy)
        copy.chmod(0o600)


def _is_immutable(path: Path) -> bool:
    """Whether a file is only ever replaced as a whole, so that a link to it keeps what it was."""
    folders = (path.parent.name, path.parent.parent.name)
    return path.name == "model.pt" or any(folder in _IMMUTABLE for folder in folders)


def _copy_database(path: Path, copy: Path) -> None:
    with (
        closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=10.0)) as source,
        closing(sqlite3.connect(copy)) as destination,
    ):
        source.backup(destination)
    copy.chmod(0o600)


def _copy_append_only_files(redis: Path, stage: Path) -> None:
    """Copy the server's append-only files; once more if it has rewritten them meanwhile.

    Raises OSError when it does so again and again.
    """
    source, target = redis / "appendonlydir", stage / "appendonlydir"
    if not source.is_dir():
        return
    for _ in range(_TRIES):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(mode=0o700, parents=True)
        before = _manifests(source)
        with contextlib.suppress(FileNotFoundError):
            for path in source.iterdir():
                shutil.copyfile(path, target / path.name)
                (target / path.name).chmod(0o600)
            if _manifests(source) == before:
                return
    raise OSError(f"{source} is being rewritten again and again; try again later")


def _manifests(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.manifest")}


def _files_in(stage: Path) -> list[Path]:
    return sorted(
        path.relative_to(stage) for path in stage.rglob("*") if path.is_symlink() or path.is_file()
    )


def _manifest(stage: Path, files: list[Path], version: str) -> dict[str, Any]:
    return {
        "backup_version": BACKUP_VERSION,
        "format": format_of(stage) or FORMAT_VERSION,
        "version": version,
        "created_at": time.time(),
        "sha256": {
            str(path): digest(stage / path) for path in files if not (stage / path).is_symlink()
        },
    }


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(target: Path, stage: Path, files: list[Path], manifest: dict[str, Any]) -> None:
    """Write the tar file; the manifest comes first, so that it can be read without the rest."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    (stage / MANIFEST).write_text(json.dumps(manifest, indent=1))
    with os.fdopen(descriptor, "wb") as file:
        with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive:
            for path in [Path(MANIFEST), *files]:
                archive.add(stage / path, arcname=str(path), recursive=False)
        file.flush()
        os.fsync(file.fileno())
