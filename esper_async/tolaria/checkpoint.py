"""Checkpoints on disk: complete, checksummed, replaced atomically, written beside training."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from esper_async.runtime.files import sync_directory

FORMAT = 2
_KEPT = 2


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or none that is whole can be read."""


@dataclass(frozen=True, slots=True)
class Written:
    """A checkpoint that is on disk."""

    step: int
    path: Path
    size_bytes: int
    duration_ms: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as the journal has them."""
        return {"path": self.path.name, "bytes": self.size_bytes, "ms": self.duration_ms}


def snapshot(value: Any) -> Any:
    """Return a deep copy of a state: tensors are cloned on the CPU, containers rebuilt."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, list):
        return [snapshot(item) for item in value]
    if isinstance(value, tuple):
        return tuple(snapshot(item) for item in value)
    return value


class CheckpointStore:
    """The checkpoints of one run: `<step>.pt` with its manifest `<step>.json`.

    A checkpoint counts from the moment its manifest is in place. The newest two are kept. Writing
    happens in a thread of its own, one at a time; its failure is raised by the next call.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Written] | None = None
        self._written: list[Written] = []

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write `state` beside the caller, once an earlier write has ended.

        Nobody may change it any more; `snapshot` makes a copy that nobody does.

        Raises:
            CheckpointError: the write before this one failed.
        """
        self.wait()
        self._writing = self._writer.submit(self._write, step, state)

    def wait(self) -> None:
        """Wait for the write under way; raise CheckpointError if it failed."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            self._written.append(writing.result())
        except Exception as failure:
            raise CheckpointError(f"a checkpoint could not be written: {failure}") from failure

    def take_written(self) -> list[Written]:
        """Return what was found written, by a `save` or `wait`, since the last call."""
        taken, self._written = self._written, []
        return taken

    def load_before(self, step: int) -> tuple[int, dict[str, Any]] | None:
        """Return (step, state) of the newest whole checkpoint taken before `step`, if any."""
        self.wait()
        for manifest_path in sorted(self._folder.glob("*.json"), reverse=True):
            if int(manifest_path.stem) < step:
                loaded = _read(manifest_path)
                if loaded is not None:
                    return loaded
        return None

    def steps(self) -> list[int]:
        """Return the steps at which checkpoints were taken, oldest first."""
        self.wait()
        return sorted(int(path.stem) for path in self._folder.glob("*.json"))

    def drop_after(self, step: int) -> None:
        """Drop the checkpoints taken after `step`: a crash from here on resumes from before it."""
        self.wait()
        for manifest_path in sorted(self._folder.glob("*.json"), reverse=True):
            if int(manifest_path.stem) > step:
                manifest_path.unlink()
                manifest_path.with_suffix(".pt").unlink(missing_ok=True)

    def load_latest(self) -> tuple[int, dict[str, Any]] | None:
        """Return (step, state) of the newest whole checkpoint; None if there is none.

        Raises:
            CheckpointError: there are checkpoints, and every one is damaged.
        """
        manifests = sorted(self._folder.glob("*.json"), reverse=True)
        for number, manifest_path in enumerate(manifests):
            loaded = _read(manifest_path)
            if loaded is not None:
                for damaged in manifests[:number]:  # or they would count among those kept
                    damaged.rename(damaged.with_suffix(".damaged"))
                return loaded
        if manifests:
            raise CheckpointError(
                f"every checkpoint in {self._folder} is damaged; restore the folder from a backup, "
                f"or remove it to train from the start"
            )
        return None

    def _write(self, step: int, state: Mapping[str, Any]) -> Written:
        started = time.perf_counter()
        path = self._folder / f"{step:010d}.pt"
        _replace(path, lambda temporary: torch.save(state, temporary))
        size_bytes = path.stat().st_size
        manifest = {
            "format": FORMAT,
            "step": step,
            "file": path.name,
            "size_bytes": size_bytes,
            "sha256": _digest(path),
            "torch": torch.__version__,
        }
        manifest_path = path.with_suffix(".json")
        _replace(manifest_path, lambda temporary: temporary.write_text(json.dumps(manifest)))
        self._prune()
        return Written(step, path, size_bytes, 1e3 * (time.perf_counter() - started))

    def _prune(self) -> None:
        for manifest in sorted(self._folder.glob("*.json"), reverse=True)[_KEPT:]:
            manifest.unlink()
            manifest.with_suffix(".pt").unlink(missing_ok=True)


def _replace(path: Path, write: Any) -> None:
    temporary = path.with_name(f".{path.name}.part")
    write(temporary)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(manifest_path: Path) -> tuple[int, dict[str, Any]] | None:
    try:
        manifest = json.loads(manifest_path.read_text())
        path = manifest_path.with_name(manifest["file"])
        if manifest["format"] != FORMAT or _digest(path) != manifest["sha256"]:
            return None
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, UnpicklingError):
        return None
    return manifest["step"], state
