"""The command line in a process of its own, and whatever of it is still running afterwards."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from esper_async.study.bench.up_process import COMMAND

TRACEBACK_VARIABLE = "ESPER_TRACEBACK"
"""Asks the command line for tracebacks."""
_PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said and how it ended; `left` are processes that it left behind."""

    code: int
    said: str
    left: tuple[str, ...]


def answer_of(folder: Path, *arguments: str, **variables: str) -> Answer:
    """Run `esper-supervisor ARGUMENTS` in `folder` to its end, without Esper's own variables.

    Raises:
        subprocess.TimeoutExpired: it had not ended after minutes.
    """
    done = subprocess.run(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_PATIENCE_S,
        env={**_environment(), **variables},
        cwd=folder,
        check=False,
    )
    return Answer(done.returncode, done.stdout, tuple(processes_of(folder)))


def _environment() -> Mapping[str, str]:
    return {
        key: value
        for key, value in os.environ.items()
        if key == TRACEBACK_VARIABLE or not key.startswith("ESPER_")
    }


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of other processes that work in `folder` or name it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or entry.name == str(os.getpid()):
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            inside = (entry / "cwd").readlink().is_relative_to(folder)
        except OSError:
            continue
        if command and (inside or str(folder) in command):
            found.append(command)
    return found
