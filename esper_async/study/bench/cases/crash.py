"""Is a run that was killed at any instant bitwise the run that was not? SIGKILL, aimed and random.

Each run is killed once and started again, in the middle of what a kill may hit: the writing of a
checkpoint, a germination, a blend, a trial beside a twin, a rollback; or at an instant of its whole
life, its start and its end included, that was drawn from a seed fixed before. The full form kills a
further run in each of these, one after another.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    shown,
)
from esper_async.study.bench.deaths import PLACES, Death
from esper_async.study.bench.left_behind import amiss, told
from esper_async.study.bench.nursery import STRAIGHT

AT_RANDOM = {Effort.SHORT: 1, Effort.FULL: 30}
_SEED = 20261127
_TIMEOUT_S = 900.0
_STEPS = {"a checkpoint": 60, "a germination": 80, "a blend": 56, "a twin": 70, "a rollback": 30}
"""From which step on: each behind a checkpoint without which it would come to nothing."""
_AIMED = {
    Effort.SHORT: (
        "a checkpoint: its first records are written",
        "a germination: some of its seeds planted",
        "a blend: between two steps",
        "a twin: trained on the batch, its average is not",
        "a rollback: told, nothing dropped",
    ),
    Effort.FULL: tuple(PLACES),
}


class DrillError(RuntimeError):
    """A run was not killed where it should have been; the message says what came instead."""


def measure(effort: Effort) -> list[Row]:
    """Train once without interruption and often with one, and compare tensors and journals."""
    runs = plan(effort)
    with tempfile.TemporaryDirectory(prefix="esper-drill-") as scratch:
        lives = _raise_all(Path(scratch), runs)
        straight = Path(scratch) / STRAIGHT
        expected = told(straight)
        equal = untold = 0
        for number in range(len(runs)):
            folder = Path(scratch) / str(number)
            equal += _end(folder) == _end(straight)
            untold += amiss(expected, told(folder))
    met = [at for life in lives for at in life["met"]]
    stages = Counter(stage for at in met for stage in at)
    return [
        judged(
            "killed runs that end bitwise as the one that was not", float(equal),
            f"of {len(runs)}", Bar("at least", float(len(runs))),
            note="; ".join(f"{count} in {kind}" for kind, count in _kinds(runs).items()),
        ),
        judged(
            "records told twice, or lost", float(untold), "", Bar("at most", 0.0),
            note=f"boundaries, decisions, transitions, field reports of {len(runs)} runs",
        ),
        shown(
            "killed", float(len(met)), "times",
            note="with " + ", ".join(f"{stage} {n}" for stage, n in sorted(stages.items())),
        ),
    ]  # fmt: skip


def plan(effort: Effort) -> list[list[Death]]:
    """Return the deaths of each run."""
    draw = random.Random(_SEED)  # noqa: S311 - instants that repeat, no secrets
    aimed = [_aimed(place) for place in _AIMED[effort]]
    runs = [[death] for death in aimed]
    runs += [[Death(share=draw.random())] for _ in range(AT_RANDOM[effort])]
    if effort is Effort.FULL:
        one_a_kind = {death.kind: death for death in reversed(aimed)}
        runs.append(sorted(one_a_kind.values(), key=lambda death: death.step))
    return runs


def _aimed(place: str) -> Death:
    kind = place.partition(":")[0]
    return Death(place, _STEPS.get(kind, 100))


def _kinds(runs: Sequence[Sequence[Death]]) -> Counter[str]:
    """Count what single kills were in; a run that is killed more than once is in each in turn."""
    names = {"any": "whatever it was at"}
    kinds = [run[0].kind if len(run) == 1 else "each of these in turn" for run in runs]
    return Counter(names.get(kind, kind) for kind in kinds)


def _end(folder: Path) -> Any:
    """Return the digest of a run's tensors; one that did not come to its end has none."""
    path = folder / "end.json"
    return json.loads(path.read_text())["tensors"] if path.exists() else None


def _raise_all(folder: Path, runs: Sequence[Sequence[Death]]) -> list[dict[str, Any]]:
    plan_json = json.dumps([[death.to_json() for death in deaths] for deaths in runs])
    mutant = _mutant()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "esper_async.study.bench.nursery", str(folder), mutant],
        input=plan_json,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=_TIMEOUT_S,
    )
    if done.returncode:
        raise DrillError(f"the drill ended with {done.returncode}: {done.stderr[-2000:]}")
    lives: list[dict[str, Any]] = json.loads(done.stdout)
    wrong = [sentence for life in lives for sentence in life["amiss"]]
    if wrong and not mutant:
        raise DrillError(f"{'; '.join(wrong)}: {done.stderr[-2000:]}")
    return lives


def _mutant() -> str:
    return ""


def _broken(mutant: str) -> AbstractContextManager[Any]:
    """Have the killed runs broken in the way that the nursery calls `mutant`."""
    return replaced(f"{__name__}._mutant", lambda: mutant)


_EQUAL, _TOLD = (
    "killed runs that end bitwise as the one that was not",
    "records told twice, or lost",
)

BENCHMARK = Benchmark(
    name="crash",
    question="is a run that was killed at any instant bitwise the run that was not?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "a checkpoint counts before it is whole",
            "its manifest is in place first, and is taken at its word",
            partial(_broken, "early"),
            fails=(_EQUAL,),
        ),
        Mutant(
            "optimizer state forgotten",
            "weights are restored, moments start from zero",
            partial(_broken, "moments"),
            fails=(_EQUAL,),
        ),
        Mutant(
            "journal not replayed",
            "what was commanded after the checkpoint is forgotten",
            partial(_broken, "journal"),
            fails=(_EQUAL, _TOLD),
        ),
        Mutant(
            "a twin not saved",
            "it begins anew from the run as it is then",
            partial(_broken, "twin"),
            fails=(_EQUAL,),
        ),
        Mutant(
            "a rollback left half done",
            "the next process does not finish it",
            partial(_broken, "rollback"),
            fails=(_EQUAL,),
        ),
        Mutant(
            "tells all again",
            "what was told before the kill and after the checkpoint is told once more",
            partial(_broken, "again"),
            fails=(_TOLD,),
        ),
    ),
)
