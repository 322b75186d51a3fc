"""A run in a process of its own that is killed and started again, and what it left and told."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from esper_async.study.bench.benchmark import replaced
from esper_async.study.bench.left_behind import told

_TIMEOUT_S = 300.0


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

    @property
    def result(self) -> dict[str, Any]:
        """What the run ended with."""
        document: dict[str, Any] = json.loads((self.folder / "weights.json").read_text())
        return document

    def told(self) -> Counter[tuple[Any, ...]]:
        """Return every record whose effect must happen once, with how often it was written."""
        return told(self.folder)

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
