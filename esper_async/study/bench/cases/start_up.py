"""How long until the supervisor is ready, and how much memory does it take? Real processes.

`up` is started once, so that kernels are proved, and then again, warm. Wall-clock and resident
memory are read from outside; of several starts the best counts, for what others do on the machine
only makes a start slower.
"""

import signal
import subprocess
import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
)
from esper_async.study.bench.up_process import (
    COMMAND,
    UpError,
    run_in_every_python,
    started,
)

MOST_READY_S, MOST_HELP_S, MOST_RSS_MB = 4.0, 0.4, 120.0
SETTLE_S = 1.0
"""Services go on loading for a moment after they are ready."""
_STARTS = {Effort.SHORT: 1, Effort.FULL: 5}
_HELPS = {Effort.SHORT: 5, Effort.FULL: 15}
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds to readiness, and the most memory held so far, in MB (10^6 bytes)."""

    ready_s: float
    rss_mb: float


def measure(effort: Effort) -> list[Row]:
    """Start the command line again and again and time it."""
    with tempfile.TemporaryDirectory(prefix="esper-start-") as scratch:
        folder = Path(scratch)
        helps = [_help_s(folder) for _ in range(1 + _HELPS[effort])][1:]
        starts = [_start(folder) for _ in range(1 + _STARTS[effort])][1:]
    ready = [start.ready_s for start in starts]
    return [
        judged("warm `up` to /readyz 200", min(ready), "s", Bar("at most", MOST_READY_S),
               note=f"best of {len(ready)}, slowest {max(ready):.2f} s"),
        judged("`--help`", min(helps), "s", Bar("at most", MOST_HELP_S),
               note=f"best of {len(helps)}, slowest {max(helps):.2f} s"),
        judged("supervisor's resident memory", max(start.rss_mb for start in starts), "MB",
               Bar("at most", MOST_RSS_MB),
               note=f"highest until {SETTLE_S:g} s after it was ready"),
    ]  # fmt: skip


def _help_s(folder: Path) -> float:
    began = time.monotonic()
    subprocess.run([*COMMAND, "--help"], check=True, capture_output=True, cwd=folder)
    return time.monotonic() - began


def _start(folder: Path) -> Start:
    """Start `up` without a run, wait until it is ready, look at its memory, and stop it.

    Raises:
        UpError: it was not ready or had not ended in time, or ended with an error.
    """
    with started(folder, "--no-run") as up:
        ready_s = up.until(up.ready, "its readiness", patience_s=_PATIENCE_S)
        time.sleep(SETTLE_S)
        rss_mb = _peak_rss_mb(up.pid)
        up.end(number=signal.SIGTERM, patience_s=_PATIENCE_S)
    return Start(ready_s, rss_mb)


def _peak_rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise UpError(f"/proc/{pid}/status tells no peak of resident memory")


def _torch_imported() -> AbstractContextManager[None]:
    return run_in_every_python("import torch\n")


BENCHMARK = Benchmark(
    name="start-up",
    question="is the supervisor ready at once, and small?",
    measure=measure,
    mutants=(
        Mutant("torch at start", "the supervisor imports torch when it starts", _torch_imported),
    ),
)
