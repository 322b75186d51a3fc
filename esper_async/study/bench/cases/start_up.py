"""How long until the supervisor is ready, and how much memory does it take? Real processes.

`up` is started once, so that kernels are proved, and then again, warm. Wall-clock and resident
memory are read from outside; of several starts the best counts, for what others do on the machine
only makes a start slower.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
)

MOST_READY_S, MOST_HELP_S, MOST_RSS_MB = 4.0, 0.4, 120.0
SETTLE_S = 1.0
"""Services go on loading for a moment after they are ready."""
_STARTS = {Effort.SHORT: 1, Effort.FULL: 5}
_HELPS = {Effort.SHORT: 5, Effort.FULL: 15}
_COMMAND = (sys.executable, "-P", "-m", "esper_async.cli")
_PATIENCE_S = 60.0
_POLL_S = 0.01


class StartError(RuntimeError):
    """The supervisor did not become ready, or did not stop; the message holds what it said."""


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
    subprocess.run([*_COMMAND, "--help"], check=True, capture_output=True, cwd=folder)
    return time.monotonic() - began


def _start(folder: Path) -> Start:
    """Start `up` without a run, wait until it is ready, look at its memory, and stop it.

    Raises:
        StartError: it was not ready or had not ended in time, or ended with an error.
    """
    with (folder / "said").open("w+") as said:
        began = time.monotonic()
        arguments = ("up", "--no-run", "--port", "0", "--state-dir", str(folder / "state"))
        process = subprocess.Popen([*_COMMAND, *arguments], stdout=said, stderr=said, cwd=folder)
        try:
            ready_s = _until_ready(process, folder / "state", began) - began
            time.sleep(SETTLE_S)
            rss_mb = _peak_rss_mb(process.pid)
            process.send_signal(signal.SIGTERM)
            if process.wait(_PATIENCE_S) != 0:
                raise StartError(f"`up` ended with {process.returncode}")
        except (StartError, subprocess.TimeoutExpired) as error:
            said.seek(0)
            raise StartError(f"{error}: {said.read()[-2000:]}") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    return Start(ready_s, rss_mb)


def _until_ready(process: subprocess.Popen[bytes], state: Path, began: float) -> float:
    """Ask /readyz until it answers 200 and return the time; each process tells its own port."""
    while time.monotonic() - began < _PATIENCE_S:
        if process.poll() is not None:
            raise StartError(f"`up` ended with {process.returncode}")
        try:
            facts = json.loads((state / "supervisor.json").read_text())
            if facts["pid"] == process.pid:
                url = f"http://{facts['host']}:{facts['port']}/readyz"
                with urllib.request.urlopen(url, timeout=5):
                    return time.monotonic()
        except (OSError, ValueError):
            time.sleep(_POLL_S)
    raise StartError(f"`up` was not ready within {_PATIENCE_S:g} s")


def _peak_rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise StartError(f"/proc/{pid}/status tells no peak of resident memory")


@contextmanager
def _torch_imported() -> Iterator[None]:
    """Have every Python that is started import torch first."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "sitecustomize.py").write_text("import torch\n")
        path = os.pathsep.join(filter(None, (scratch, os.environ.get("PYTHONPATH"))))
        with mock.patch.dict(os.environ, PYTHONPATH=path):
            yield


BENCHMARK = Benchmark(
    name="start-up",
    question="is the supervisor ready at once, and small?",
    measure=measure,
    mutants=(
        Mutant("torch at start", "the supervisor imports torch when it starts", _torch_imported),
    ),
)
