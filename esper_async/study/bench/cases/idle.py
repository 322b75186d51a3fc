"""What does a supervisor cost that has nothing to do? A real `up` without a run, from outside.

Processor time and resident memory of its process are read every second, after a while to settle.
The slope of the memory is a straight line's through these samples, its interval that of the slope
with the residuals' own spread; over a short time it says little, and a slope that could be either
is inconclusive. What its children take, the Redis server above all, is shown beside it.
"""

import math
import os
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from esper_async.runtime.processes import children
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    shown,
    wants,
)
from esper_async.study.bench.up_process import run_in_every_python, started
from esper_async.study.statistics import student_t_quantile

MOST_RSS_MB = 120.0
MOST_CPU_PERCENT = {Effort.SHORT: 3.0, Effort.FULL: 1.0}
MOST_SLOPE_MB_H = {Effort.SHORT: 200.0, Effort.FULL: 6.0}
"""In its first minute a supervisor still warms up: the short form finds what is far off."""
CPU, RSS, SLOPE = "processor time", "resident memory, highest", "resident memory, slope"
_WATCHED_S = {Effort.SHORT: 10.0, Effort.FULL: 600.0}
_SETTLE_S = {Effort.SHORT: 5.0, Effort.FULL: 60.0}
_EVERY_S, _PATIENCE_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at the supervisor: the time, what it has computed (s), and its memory (MB, 10^6)."""

    at_s: float
    cpu_s: float
    rss_mb: float


def measure(effort: Effort) -> list[Row]:
    """Start `up` without a run, let it settle, and look at it every second."""
    with (
        tempfile.TemporaryDirectory(prefix="esper-idle-") as folder,
        started(Path(folder), "--no-run") as up,
    ):
        up.until(up.ready, "its readiness", patience_s=_PATIENCE_S)
        time.sleep(_SETTLE_S[effort])
        samples = _watch(up.pid, _WATCHED_S[effort])
        others = [_look(pid) for pid in children(up.pid)]
        up.end(number=signal.SIGTERM, patience_s=_PATIENCE_S)
    rows = _rows(samples, effort)
    beside = sum(other.rss_mb for other in others)
    rows.append(shown("its children's memory", beside, "MB", note=f"{len(others)} processes"))
    return [row for row in rows if row.bar is None or wants(row.figure)]


def _rows(samples: list[Sample], effort: Effort) -> list[Row]:
    first, last = samples[0], samples[-1]
    span_s = last.at_s - first.at_s
    slope, half = _slope(samples)
    return [
        judged(
            CPU, 100 * (last.cpu_s - first.cpu_s) / span_s, "%",
            Bar("at most", MOST_CPU_PERCENT[effort]),
            note=f"of one core, over {span_s:.0f} s",
        ),
        judged(RSS, max(s.rss_mb for s in samples), "MB", Bar("at most", MOST_RSS_MB)),
        judged(
            SLOPE, slope, "MB an hour", Bar("at most", MOST_SLOPE_MB_H[effort]),
            interval=(slope - half, slope + half), note=f"{len(samples)} samples",
        ),
    ]  # fmt: skip


def _slope(samples: list[Sample]) -> tuple[float, float]:
    """Return the least-squares slope of the memory (MB an hour), and half its 95 % interval."""
    at = np.array([sample.at_s for sample in samples]) / 3_600.0
    rss = np.array([sample.rss_mb for sample in samples])
    apart = at - at.mean()
    slope = float((apart * rss).sum() / (apart**2).sum())
    residuals = rss - rss.mean() - slope * apart
    freedom = len(samples) - 2
    error = math.sqrt(float((residuals**2).sum()) / freedom / float((apart**2).sum()))
    return slope, student_t_quantile(freedom, 0.95) * error


def _watch(pid: int, seconds: float) -> list[Sample]:
    samples = [_look(pid)]
    while samples[-1].at_s - samples[0].at_s < seconds:
        time.sleep(_EVERY_S)
        samples.append(_look(pid))
    return samples


def _look(pid: int) -> Sample:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Sample(
        time.monotonic(),
        ticks / os.sysconf("SC_CLK_TCK"),
        pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
    )


# -- mutants -------------------------------------------------------------------------------------

_BESIDE = """
import sys, threading, time
if "up" in sys.orig_argv:
    def _go_on():
        kept = []
        while True:
            {deed}
            time.sleep(0.1)
    threading.Thread(target=_go_on, daemon=True).start()
"""
_BUSY = _BESIDE.format(deed="sum(range(1_000_000))")
_LEAKS = _BESIDE.format(deed="kept.append(b'x' * 50_000)")
_HEAVY = """
import sys
if "up" in sys.orig_argv:
    _ballast = bytearray(b"x") * 90_000_000
"""

BENCHMARK = Benchmark(
    name="idle",
    question="what does a supervisor cost that has nothing to do?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "never rests",
            "something looks again and again whether there is something to do",
            lambda: run_in_every_python(_BUSY),
            fails=(CPU,),
        ),
        Mutant(
            "leaks",
            "half a megabyte a second is kept",
            lambda: run_in_every_python(_LEAKS),
            fails=(SLOPE,),
        ),
        Mutant(
            "heavy",
            "90 MB more are loaded",
            lambda: run_in_every_python(_HEAVY),
            fails=(RSS,),
        ),
    ),
)
