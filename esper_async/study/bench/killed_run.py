"""A run in a process of its own that is killed and started again, and what it left and told."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from esper_async.runtime.journal import read_journal
from esper_async.study.bench.benchmark import replaced

_TIMEOUT_S = 300.0
_POLL_S = 0.002
_NAMED_BY = {
    "boundary": (),
    "decision": ("policy", "command"),
    "transition": ("seed", "from_stage", "to_stage"),
    "field_report": ("report_id",),
}


class ChildFailedError(RuntimeError):
    """A training process ended in a way that was not asked for."""


class KilledRun:
    """A run folder and the processes that train in it, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def start(self, *flags: str) -> None:
        """Run one process to its end, which is by SIGKILL where a flag asks for that.

        Raises:
            ChildFailedError: it ended otherwise.
        """
        with self._child(*flags) as child:
            self._check(child, -signal.SIGKILL if "--kill-at" in flags else 0)

    def kill_after(self, seconds: float) -> bool:
        """Run one process and kill it `seconds` after it began to train; False if it had ended.

        Raises:
            ChildFailedError: it ended badly before that.
        """
        before = self._journal_bytes()
        with self._child() as child:
            while child.poll() is None and self._journal_bytes() == before:
                time.sleep(_POLL_S)
            try:
                child.wait(seconds)
            except subprocess.TimeoutExpired:
                child.kill()
                self._check(child, -signal.SIGKILL)
                return True
            self._check(child, 0)
            return False

    @property
    def result(self) -> dict[str, Any]:
        """What the run ended with."""
        document: dict[str, Any] = json.loads((self.folder / "weights.json").read_text())
        return document

    def stages(self) -> list[str]:
        """Return what was going on at the last record: the seeds' stages, "checkpoint" if so."""
        stages: dict[str, str] = {}
        for record in read_journal(self.folder / "journal.jsonl"):
            if record["kind"] == "transition":
                stages[record["seed"]] = record["to_stage"]
        writing = any((self.folder / "checkpoints").glob(".*.part"))
        return sorted(set(stages.values())) + (["checkpoint"] if writing else [])

    def told(self) -> Counter[tuple[Any, ...]]:
        """Return every record whose effect must happen once, with how often it was written."""
        found: Counter[tuple[Any, ...]] = Counter()
        for record in read_journal(self.folder / "journal.jsonl"):
            name = _NAMED_BY.get(record["kind"])
            if name is not None:
                found[
                    (record["kind"], record["boundary"], *(str(record[key]) for key in name))
                ] += 1
        return found

    def _journal_bytes(self) -> int:
        journal = self.folder / "journal.jsonl"
        return journal.stat().st_size if journal.exists() else 0

    def _child(self, *flags: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-P",
            "-m",
            "esper_async.study.bench.resume_child",
            str(self.folder),
        ]
        return subprocess.Popen(
            [*command, *_mutant_flags(), *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def _check(self, child: subprocess.Popen[str], expected: int) -> None:
        try:
            _, errors = child.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
        if child.returncode != expected:
            raise ChildFailedError(
                f"the training process ended with {child.returncode}, not {expected}: "
                f"{errors[-2000:]}"
            )


def _mutant_flags() -> list[str]:
    return []


def broken_child(mutant: str) -> AbstractContextManager[Any]:
    """Have the training processes broken in the way that `resume_child` calls `mutant`."""
    return replaced(f"{__name__}._mutant_flags", lambda: ["--mutant", mutant])
