"""Drills in a process of their own, on a supervisor of their own: see `esper_async.drills`."""

import json
import os
import subprocess
import sys
from contextlib import AbstractContextManager
from typing import Any

from esper_async.study.bench.benchmark import replaced

_TIMEOUT_S = 3_600.0


class DrillsError(RuntimeError):
    """The drills could not be held; the message says why."""


def drilled(*arguments: str) -> dict[str, Any]:
    """Hold what the arguments ask for; return what it tells.

    Raises:
        DrillsError: it told nothing.
    """
    command = [sys.executable, "-P", "-m", "esper_async.drills", *arguments, "--json"]
    done = subprocess.run(
        [*command, "--mutation", _mutation()],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("ESPER_")},
        check=False,
        timeout=_TIMEOUT_S,
    )
    try:
        told: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise DrillsError(
            f"the drills ended with {done.returncode}: {done.stderr[-2000:]}"
        ) from None
    return told


def _mutation() -> str:
    return ""


def broken(source: str) -> AbstractContextManager[Any]:
    """Have every process of the drills run this Python source first: a mutant."""
    return replaced(f"{__name__}._mutation", lambda: source)
