"""Is a run that was killed at any instant bitwise the run that was not? SIGKILL, at random.

The run grows while it is killed: with candidates in shadow, in blending, on trial beside a twin,
while a checkpoint is written. Instants are drawn from the time that it trains, three to a run, from
a seed that was fixed before.
"""

import random
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from esper_async.study.bench.benchmark import Bar, Benchmark, Effort, Mutant, Row, judged, shown
from esper_async.study.bench.killed_run import KilledRun, broken_child

KILLS = {Effort.SHORT: 6, Effort.FULL: 30}
_KILLS_A_RUN = 3
_SEED = 20261127


def measure(effort: Effort) -> list[Row]:
    """Train once without interruption, then with kills, and compare weights and journals."""
    source = random.Random(_SEED)  # noqa: S311 - instants that repeat, no secrets
    at: Counter[str] = Counter()
    kills = runs = different = amiss = 0
    with tempfile.TemporaryDirectory() as scratch:
        straight = KilledRun(Path(scratch) / "straight")
        began = time.monotonic()
        straight.start()
        whole_s = time.monotonic() - began
        while kills < KILLS[effort]:
            killed = KilledRun(Path(scratch) / f"killed-{runs}")
            runs += 1
            planned = min(_KILLS_A_RUN, KILLS[effort] - kills)
            while planned and killed.kill_after(source.uniform(0.0, whole_s / (1 + _KILLS_A_RUN))):
                planned -= 1
                kills += 1
                at.update(killed.stages())
            if not planned:  # else it had come to its end before the next kill
                killed.start()
            different += straight.result["weights"] != killed.result["weights"]
            expected, found = straight.told(), killed.told()
            amiss += ((found - expected) + (expected - found)).total()
    during = ", ".join(f"{stage} {count}" for stage, count in sorted(at.items()))
    return [
        judged(
            "runs whose weights differ", float(different), "", Bar("at most", 0.0),
            note=f"of {runs}, killed {kills} times in all, bitwise",
        ),
        judged(
            "records told twice, or lost", float(amiss), "", Bar("at most", 0.0),
            note=f"boundaries, decisions, transitions, field reports of {runs} runs",
        ),
        shown("killed", float(kills), "times", note=f"in a run with seeds in: {during}"),
    ]  # fmt: skip


BENCHMARK = Benchmark(
    name="crash",
    question="is a run that was killed at random instants bitwise the run that was not?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "optimizer state forgotten",
            "weights are restored, moments start from zero",
            partial(broken_child, "optimizer"),
            fails=("runs whose weights differ",),
        ),
        Mutant(
            "tells all again",
            "what was told before the kill and after the checkpoint is told once more",
            partial(broken_child, "again"),
            fails=("records told twice, or lost",),
        ),
    ),
)
