"""One checkpoint as files: `<step>.pt` with the state, and its manifest `<step>.json`.

The manifest vouches for the state: it has its checksum, which every read compares, and is put in
place last. The state is hashed as it is written, piece by piece, and read through a map of the
file, so that neither takes the memory of another copy.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from io import FileIO
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import torch

from esper_async.runtime.files import write_json_atomically
from esper_async.runtime.tensor_file import read_tensors
from esper_async.tolaria.pace import Pace
from esper_async.tolaria.packing import pack, unpack

FORMAT = 5
_WHOLE_RECORDS_FORMAT = 4
"""Of the same content, the records of ended seeds as mappings."""
_UNPACKED_FORMAT = 3
"""Of that content, each tensor saved by itself."""
PIECE_BYTES = 1 << 22
"""Some milliseconds of work. Smaller ones would ask more often for Python's lock, which training
needs between any two operations."""
_GATHERED_BYTES = 1 << 18
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written."""


class UnreadableCheckpointError(CheckpointError):
    """No checkpoint can be read: each is damaged, or another version of Esper wrote it."""


class Loaded(NamedTuple):
    """A state from disk and the step at which it was taken."""

    step: int
    state: dict[str, Any]


def write_checkpoint(folder: Path, step: int, state: Mapping[str, Any], pace: Pace) -> Path:
    """Write a checkpoint into `folder`, durable when this returns; return the state's file.

    An earlier one of the same step counts until this one does. The manifest's write makes both
    names durable; where a crash leaves its name without the state's, it vouches for nothing, and
    the checkpoint before it, which is removed later, counts.

    Raises:
        OSError: the disk refused.
    """
    path = _free_path(folder, step)
    sink = _write_state(path, state, pace)
    manifest = {
        "format": FORMAT,
        "step": step,
        "file": path.name,
        "size_bytes": sink.size_bytes,
        "sha256": sink.sha256,
        "torch": torch.__version__,
        "esper": _version(),
    }
    write_json_atomically(folder / f"{step:010d}.json", manifest)
    return path


def _write_state(path: Path, state: Mapping[str, Any], pace: Pace) -> "_Sink":
    try:
        with FileIO(path, "x") as file:
            sink = _Sink(file, pace)
            torch.save(pack(state), cast(IO[bytes], sink))  # it asks for write and flush alone
            sink.finish()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return sink


def read_checkpoint(manifest_path: Path) -> Loaded | None:
    """Return a checkpoint, its checksum verified; None if it is damaged.

    Its large tensors lie in a private map of the file: whoever loads them copies them.

    Raises:
        UnreadableCheckpointError: it is whole, as far as one can tell, but of another format.
    """
    try:
        manifest = json.loads(manifest_path.read_text())
        path = manifest_path.with_name(manifest["file"])
        found = manifest["format"]
        if found in (FORMAT, _WHOLE_RECORDS_FORMAT, _UNPACKED_FORMAT):
            if _digest(path) != manifest["sha256"]:
                return None
            saved = read_tensors(path, mapped=True)
            return Loaded(manifest["step"], saved if found == _UNPACKED_FORMAT else unpack(saved))
    except _UNREADABLE:
        return None
    writer = manifest.get("esper", "an earlier version")
    raise UnreadableCheckpointError(
        f"checkpoint {path} has format {found}, written by Esper {writer}, and this version reads "
        f"format {FORMAT}: go on with the version that wrote it (under a supervisor, from a backup "
        f"of its state directory), or train from the start, as a new run"
    )


def tidy(folder: Path) -> None:
    """Remove what writes that were cut short have left: no manifest will ever vouch for it."""
    for temporary in folder.glob(".*"):
        temporary.unlink(missing_ok=True)
    for path in folder.glob("*.pt"):
        manifest_path = folder / f"{path.stem.partition('-')[0]}.json"
        set_aside = manifest_path.with_suffix(".damaged").exists()
        if not set_aside and _file_of(manifest_path) != path.name:
            path.unlink(missing_ok=True)


def remove(manifest_path: Path) -> None:
    """Remove a checkpoint: first what makes it count."""
    name = _file_of(manifest_path)
    manifest_path.unlink()
    if name is not None:
        manifest_path.with_name(name).unlink(missing_ok=True)


class _Sink:
    """A file as torch writes into it: hashed and written in pieces, with a rest after each.

    Torch writes hundreds of small pieces, a header to each tensor: they are gathered.
    """

    def __init__(self, file: FileIO, pace: Pace) -> None:
        self._file = file
        self._pace = pace
        self._digest = hashlib.sha256()
        self._gathered = bytearray()
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        """Of all that was written, in hexadecimal."""
        return self._digest.hexdigest()

    def write(self, content: bytes | memoryview) -> int:
        """Take all of `content`."""
        size_bytes = memoryview(content).nbytes
        self.size_bytes += size_bytes
        if size_bytes > _GATHERED_BYTES:
            self.finish()
            self._write(memoryview(content).cast("B"))
        else:
            self._gathered += content
            if len(self._gathered) > _GATHERED_BYTES:
                self.finish()
        return size_bytes

    def finish(self) -> None:
        """Write what was gathered."""
        gathered, self._gathered = self._gathered, bytearray()
        self._write(memoryview(gathered))

    def _write(self, view: memoryview) -> None:
        """Hash and write, which lets other threads run Python."""
        for start in range(0, len(view), PIECE_BYTES):
            begun = time.thread_time()
            piece = view[start : start + PIECE_BYTES]
            self._digest.update(piece)
            while piece:
                piece = piece[self._file.write(piece) :]
            self._pace.worked(time.thread_time() - begun)

    def flush(self) -> None:
        """Do nothing: `finish` writes the rest."""


def _free_path(folder: Path, step: int) -> Path:
    """Return where a step's state may be written: not over one that counts."""
    path, again = folder / f"{step:010d}.pt", 2
    while path.exists():
        path, again = folder / f"{step:010d}-{again}.pt", again + 1
    return path


def _file_of(manifest_path: Path) -> str | None:
    """Return the name of the state's file, None where the manifest is none."""
    try:
        return str(json.loads(manifest_path.read_text())["file"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _version() -> str:
    try:
        return version("esper-async")
    except PackageNotFoundError:
        return "from a source tree"
