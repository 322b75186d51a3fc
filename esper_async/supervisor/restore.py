"""A state directory from a backup: all of it, checked, or nothing.

A backup may have been made by anybody. Names that lead out of the directory, links that do,
devices, and files that the manifest does not vouch for are refused before anything is put in place.
"""

import json
import os
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from esper_async.runtime.files import sync_directory
from esper_async.supervisor.backup import BACKUP_VERSION, MANIFEST, digest
from esper_async.supervisor.errors import BackupError, WrongBackupError
from esper_async.supervisor.state_dir import FORMAT_VERSION

_MANIFEST_BYTES = 256 << 20
_YEAR_10000 = 253_402_300_800
_ODD_HEADERS = (ValueError, OverflowError, TypeError)
"""What tarfile raises, too, over a header that no tar has written, or that was cut short."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A state directory that was made from a backup of then, a Unix time."""

    state_dir: Path
    files: int
    created_at: float


def restore(source: Path, state_dir: Path) -> Restored:
    """Make the state directory `state_dir`, which must not be there or be empty, from a backup.

    Raises BackupError when the file is no backup, is damaged, is of another version, or holds what
    a state directory cannot; then there is no state directory, or an empty one, as before.
    """
    source, state_dir = source.absolute(), state_dir.expanduser().absolute()
    if state_dir.exists() and (not state_dir.is_dir() or any(state_dir.iterdir())):
        raise WrongBackupError(
            f"{state_dir} is there already; restore into a new one (--state-dir DIR)"
        )
    scratch = state_dir.with_name(f".{state_dir.name}.restoring-{os.getpid()}")
    try:
        scratch.mkdir(mode=0o700, parents=True)
        manifest = _unpack(source, scratch)
        _check(source, scratch, manifest)
        if state_dir.exists():
            state_dir.rmdir()
        scratch.replace(state_dir)
        sync_directory(state_dir.parent)
    except (OSError, EOFError, zlib.error, tarfile.TarError, *_ODD_HEADERS) as error:
        raise BackupError(f"{source} could not be restored: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Restored(state_dir, len(manifest["sha256"]), float(manifest["created_at"]))


def _unpack(source: Path, scratch: Path) -> dict[str, Any]:
    """Unpack the archive and return its manifest, which is its first member."""
    manifest: dict[str, Any] | None = None
    with tarfile.open(source, mode="r|gz") as archive:
        for member in archive:
            _refuse_strange(source, member)
            if manifest is None:
                manifest = _read_manifest(source, archive, member)
                continue
            member.mode = 0o600
            archive.extract(member, scratch, set_attrs=True, filter="data")
    if manifest is None:
        raise BackupError(f"{source} is empty: it is no backup")
    return manifest


def _refuse_strange(source: Path, member: tarfile.TarInfo) -> None:
    """Take plain files, and links to a neighbour, below the state directory; raise for all else."""
    path = PurePosixPath(member.name)
    inside = not path.is_absolute() and ".." not in path.parts and path.parts
    link = member.issym() and "/" not in member.linkname and member.linkname not in ("", "..", ".")
    if not inside or not (member.isreg() or link):
        raise BackupError(f"{source} holds {member.name!r}, which is no file of a state directory")


def _read_manifest(
    source: Path, archive: tarfile.TarFile, member: tarfile.TarInfo
) -> dict[str, Any]:
    content = archive.extractfile(member) if member.isreg() else None
    if member.name != MANIFEST or content is None or member.size > _MANIFEST_BYTES:
        raise BackupError(f"{source} is no backup of a state directory: it begins otherwise")
    try:
        manifest: dict[str, Any] = json.loads(content.read())
        known = (manifest["backup_version"], manifest["format"])
        sums, created_at = manifest["sha256"], manifest["created_at"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BackupError(f"{source} has a damaged list of its files") from None
    dated = isinstance(created_at, int | float) and 0 <= created_at < _YEAR_10000
    if not isinstance(sums, dict) or not dated:
        raise BackupError(f"{source} has a damaged list of its files")
    if known[0] != BACKUP_VERSION or not isinstance(known[1], int) or known[1] > FORMAT_VERSION:
        raise BackupError(
            f"{source} is a backup of version {known[0]!r} of a state directory of format "
            f"{known[1]!r}; this one reads {BACKUP_VERSION} and up to {FORMAT_VERSION}: restore "
            "it with the version of Esper that wrote it"
        )
    return manifest


def _check(source: Path, scratch: Path, manifest: dict[str, Any]) -> None:
    """Compare every file with the manifest; what it does not name is not put in place."""
    found = {
        str(path.relative_to(scratch))
        for path in scratch.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    named = set(manifest["sha256"])
    if found != named:
        odd = sorted(found ^ named)[0]
        raise BackupError(f"{source} is damaged: {odd} is not as its list of files says")
    for name, expected in manifest["sha256"].items():
        if digest(scratch / name) != expected:
            raise BackupError(f"{source} is damaged: the checksum of {name} is another")
