"""How long until the supervisor is ready, and how much memory does it take? Real processes.

`up` is started once, so that kernels are proved, and then again, warm. Wall-clock and resident
memory are read from outside; of several starts the best counts, for what others do on the machine
only makes a start slower. Where even the best is late, but would not have been without its waiting
for a core, the measurement says nothing.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from esper_async.runtime.processes import queued_s
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    wants,
)
from esper_async.study.bench.up_process import (
    COMMAND,
    UpError,
    run_in_every_python,
    started,
)

MOST_READY_S, MOST_HELP_S, MOST_RSS_MB = 4.0, 0.4, 120.0
READY, HELP = "warm `up` to /readyz 200", "`--help`"
MEMORY = "supervisor's resident memory"
SETTLE_S = 1.0
"""Services go on loading for a moment after they are ready."""
_STARTS = {Effort.SHORT: 2, Effort.FULL: 5}
_HELPS = {Effort.SHORT: 5, Effort.FULL: 15}
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds that something took, and how many of them were spent waiting for a core."""

    wall_s: float
    waited_s: float


@dataclass(frozen=True, slots=True)
class Start:
    """One start: how long to readiness, and the most memory held so far, in MB (10^6 bytes)."""

    ready: Took
    rss_mb: float


def measure(effort: Effort) -> list[Row]:
    """Start the command line again and again and time it."""
    with tempfile.TemporaryDirectory(prefix="esper-start-") as scratch:
        folder = Path(scratch)
        rows = _helped(folder, _HELPS[effort]) if wants(HELP) else []
        return rows + (_started(folder, _STARTS[effort]) if wants(READY, MEMORY) else [])


def _helped(folder: Path, count: int) -> list[Row]:
    return [_prompt(HELP, [_help(folder) for _ in range(1 + count)][1:], MOST_HELP_S)]


def _started(folder: Path, count: int) -> list[Row]:
    starts = [_start(folder) for _ in range(1 + count)][1:]
    return [
        _prompt(READY, [start.ready for start in starts], MOST_READY_S),
        judged(MEMORY, max(start.rss_mb for start in starts), "MB", Bar("at most", MOST_RSS_MB),
               note=f"highest until {SETTLE_S:g} s after it was ready"),
    ]  # fmt: skip


def _prompt(figure: str, took: Sequence[Took], limit_s: float) -> Row:
    """Judge the best; the low end of its interval is the best without waiting for a core."""
    best_s = min(each.wall_s for each in took)
    return judged(
        figure,
        best_s,
        "s",
        Bar("at most", limit_s),
        interval=(min(each.wall_s - each.waited_s for each in took), best_s),
        note=f"best of {len(took)}, slowest {max(each.wall_s for each in took):.2f} s; the low "
        "end is without waiting for a core",
    )


def _help(folder: Path) -> Took:
    began = time.monotonic()
    with subprocess.Popen([*COMMAND, "--help"], stdout=subprocess.DEVNULL, cwd=folder) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it can still be looked at
        took = Took(time.monotonic() - began, _waited_s(process.pid))
    if process.returncode != 0:
        raise UpError(f"`--help` ended with {process.returncode}")
    return took


def _start(folder: Path) -> Start:
    """Start `up` without a run, wait until it is ready, look at its memory, and stop it.

    Raises:
        UpError: it was not ready or had not ended in time, or ended with an error.
    """
    with started(folder, "--no-run") as up:
        ready_s = up.until(up.ready, "its readiness", patience_s=_PATIENCE_S)
        ready = Took(ready_s, _waited_s(up.pid))
        time.sleep(SETTLE_S)
        rss_mb = _peak_rss_mb(up.pid)
        up.end(number=signal.SIGTERM, patience_s=_PATIENCE_S)
    return Start(ready, rss_mb)


def _waited_s(pid: int) -> float:
    """Return how long a process waited for a core so far; nothing where the kernel is silent."""
    with suppress(OSError):
        return queued_s(Path(f"/proc/{pid}"))
    return 0.0


def _peak_rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise UpError(f"/proc/{pid}/status tells no peak of resident memory")


_FIXED_WAIT = """
import asyncio
from esper_async.oona import server
async def answers(*_):
    await asyncio.sleep(6.0)
server.EmbeddedServer._answers = answers
"""


BENCHMARK = Benchmark(
    name="start-up",
    question="is the supervisor ready at once, and small?",
    gross_mutants=True,
    measure=measure,
    mutants=(
        Mutant(
            "torch at start",
            "the supervisor imports torch when it starts",
            lambda: run_in_every_python("import torch\n"),
            fails=(HELP, MEMORY),
        ),
        Mutant(
            "a fixed wait for Redis",
            "instead of asking whether the server answers, a while is waited that is always enough",
            lambda: run_in_every_python(_FIXED_WAIT),
            fails=(READY,),
        ),
    ),
)
