"""Is a run that was killed bitwise the run that was not? SIGKILL in the middle of epochs.

The run grows while it is killed: once with candidates training in shadow, right after an operator
culled one of them, and once with a seed on trial beside its twin.
"""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    shown,
)
from esper_async.study.bench.killed_run import KilledRun, broken_child
from esper_async.study.bench.left_behind import amiss

CULL_AT = 198
"""In the seventh epoch; carried out at boundary 7, behind the checkpoint of boundary 6."""
_KILLS = {
    Effort.SHORT: ((240, 375),),
    Effort.FULL: ((240, 375), (33, 200), (240, 260), (350, 449), (380, 381), (470,)),
}


def measure(effort: Effort) -> list[Row]:
    """Train once without interruption, then with kills, and compare weights and journals."""
    with tempfile.TemporaryDirectory() as scratch:
        straight = KilledRun(Path(scratch) / "straight")
        straight.start(*_flags(cull=True))
        rows = [
            shown("seeds kept by the uninterrupted run", float(len(straight.result["kept"])), "")
        ]
        for number, kills in enumerate(_KILLS[effort]):
            killed = KilledRun(Path(scratch) / f"killed-{number}")
            _suffer(killed, kills)
            rows += _compare(straight, killed, kills)
    return rows


def _compare(straight: KilledRun, killed: KilledRun, kills: Sequence[int]) -> list[Row]:
    when = f"killed at steps {', '.join(map(str, kills))}"
    same = float(straight.result["weights"] == killed.result["weights"])
    expected, found = straight.told(), killed.told()
    return [
        judged(f"{when}: weights bitwise equal", same, "", Bar("at least", 1.0)),
        judged(
            f"{when}: records told twice, or lost",
            float(amiss(expected, found)),
            "",
            Bar("at most", 0.0),
            note=f"of {expected.total()}: boundaries, decisions, transitions, field reports",
        ),
    ]


def _suffer(run: KilledRun, kills: Sequence[int]) -> None:
    """Train to the end through a kill at each of the given steps."""
    cull = True
    for step in kills:
        run.start(*_flags(cull=cull, kill_at=step))
        cull = cull and step <= CULL_AT
    run.start(*_flags(cull=cull))


def _flags(*, cull: bool, kill_at: int | None = None) -> list[str]:
    """Return what to tell the process; the operator's request reaches it if `cull`."""
    flags = ["--cull-at", str(CULL_AT)] if cull else []
    return flags + (["--kill-at", str(kill_at)] if kill_at is not None else [])


BENCHMARK = Benchmark(
    name="resume",
    question="is a killed run bitwise the run that was not killed?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "journal not replayed",
            "what was commanded after the checkpoint is forgotten",
            partial(broken_child, "journal"),
            fails=("*: weights bitwise equal", "*: records told twice, or lost"),
        ),
        Mutant(
            "optimizer state forgotten",
            "weights are restored, moments start from zero",
            partial(broken_child, "optimizer"),
            fails=("*: weights bitwise equal",),
        ),
    ),
)
