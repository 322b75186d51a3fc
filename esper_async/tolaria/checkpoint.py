"""Checkpoints on disk: complete, checksummed, replaced atomically, written beside training."""

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper_async.tolaria.checkpoint_file import (
    CheckpointError,
    Loaded,
    UnreadableCheckpointError,
    read_checkpoint,
    remove,
    tidy,
    write_checkpoint,
)
from esper_async.tolaria.pace import Pace

KEPT = 2
_RESTED = 0.5
"""Of the time between two checkpoints: so much of it the writing of one may rest."""


@dataclass(frozen=True, slots=True)
class Written:
    """A checkpoint that is on disk; training was held up for `copy_ms` by its copy."""

    step: int
    path: Path
    size_bytes: int
    duration_ms: float
    copy_ms: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as the journal has them."""
        return {
            "path": self.path.name,
            "bytes": self.size_bytes,
            "ms": self.duration_ms,
            "copy_ms": self.copy_ms,
        }


class CheckpointStore:
    """The checkpoints of one run: `<step>.pt` with its manifest `<step>.json`.

    A checkpoint counts from the moment its manifest is in place. Writing happens in a thread of its
    own, one at a time, which yields to training until somebody waits for it; its failure is raised
    by the next call.

    Args:
        folder: where they lie.
        kept: how many of the newest stay there.
    """

    def __init__(self, folder: Path, *, kept: int = KEPT) -> None:
        self._folder = folder
        self._kept = kept
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Written] | None = None
        self._written: list[Written] = []
        self._pace = Pace(0.0)
        self._untidy = True
        self._saved_at = time.monotonic()

    @property
    def is_writing(self) -> bool:
        """Whether a write is under way now."""
        return self._writing is not None and not self._writing.done()

    def save(self, step: int, state: Mapping[str, Any], *, copy_ms: float = 0.0) -> None:
        """Write `state` beside the caller, once an earlier write has ended.

        Nobody may change it until it is written; `Outline` makes a copy that nobody does, which
        took `copy_ms`.

        Raises:
            CheckpointError: the write before this one failed.
        """
        self.wait()
        now = time.monotonic()
        since, self._saved_at = now - self._saved_at, now
        self._pace = Pace(_RESTED * since)
        self._writing = self._writer.submit(self._write, step, state, copy_ms, self._pace)

    def wait(self) -> None:
        """Wait for the write under way, which hurries; raise CheckpointError if it failed."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        self._pace.hurry()
        try:
            self._written.append(writing.result())
        except Exception as failure:
            raise CheckpointError(f"a checkpoint could not be written: {failure}") from failure

    def take_written(self) -> list[Written]:
        """Return what was found written, by a `save` or `wait`, since the last call."""
        taken, self._written = self._written, []
        return taken

    def load_before(self, step: int) -> Loaded | None:
        """Return the newest whole checkpoint taken before `step` of those that are kept, if any."""
        self.wait()
        for manifest_path in self._manifests()[: self._kept]:
            if int(manifest_path.stem) < step:
                loaded = read_checkpoint(manifest_path)
                if loaded is not None:
                    return loaded
        return None

    def steps(self) -> list[int]:
        """Return the steps at which the checkpoints that are kept were taken, oldest first."""
        self.wait()
        return [int(path.stem) for path in reversed(self._manifests()[: self._kept])]

    def drop_after(self, step: int) -> None:
        """Drop the checkpoints taken after `step`: a crash from here on resumes from before it."""
        self.wait()
        for manifest_path in self._manifests():
            if int(manifest_path.stem) > step:
                remove(manifest_path)

    def load_latest(self) -> Loaded | None:
        """Return the newest whole checkpoint; None if there is none.

        Raises:
            UnreadableCheckpointError: there are checkpoints, and every one is damaged, or the
                newest whole one is of another format.
        """
        manifests = self._manifests()
        for number, manifest_path in enumerate(manifests):
            loaded = read_checkpoint(manifest_path)
            if loaded is not None:
                for damaged in manifests[:number]:  # or they would count among those kept
                    damaged.rename(damaged.with_suffix(".damaged"))
                return loaded
        if manifests:
            raise UnreadableCheckpointError(
                f"every checkpoint in {self._folder} is damaged; restore the folder from a backup, "
                f"or remove it to train from the start"
            )
        return None

    def _manifests(self) -> list[Path]:
        """Return the manifests, newest first."""
        return sorted(self._folder.glob("*.json"), reverse=True)

    def _write(self, step: int, state: Mapping[str, Any], copy_ms: float, pace: Pace) -> Written:
        started = time.perf_counter()
        untidy, self._untidy = self._untidy, True  # it stays so if this write fails
        if untidy:
            tidy(self._folder)
        path = write_checkpoint(self._folder, step, state, pace)
        self._untidy = "-" in path.stem  # it took the place of an earlier one of the same step
        for surplus in self._manifests()[self._kept :]:
            remove(surplus)
        duration_ms = 1e3 * (time.perf_counter() - started)
        return Written(step, path, path.stat().st_size, duration_ms, copy_ms)
