"""Does the run that a new user sees grow, and does its history say why? `config/runs/digits.toml`.

The run file as it is shipped, over base seeds. What happened is read from the journal alone: every
stage change of every seed, in one unbroken chain, each with what its gate decided on.
"""

import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from esper_async.kasmina.executor import Executor
from esper_async.kasmina.gates import GateResult
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.stage import TRANSITIONS, Stage
from esper_async.runtime.journal import read_journal
from esper_async.study.bench.all_runs import run_all
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
)
from esper_async.study.bench.breaking import KERNEL_ABSENT
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.options import options_from_run
from esper_async.tolaria.records import transition_record
from esper_async.tolaria.run_file import load_run
from esper_async.tolaria.task_source import load_task
from esper_async.urza import Library

RUN = "digits"
LEAST_KEEPING = 0.7
_UNGATED = {("GERMINATED", "TRAINING"), ("CULLED", "EMBARGOED"), ("EMBARGOED", "RESETTING")}
"""Steps that wait for nothing but their turn."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: its base seed, its epochs (None is the run file's own number), and the library."""

    seed: int
    epochs: int | None
    library: Path


_SEEDS = {Effort.SHORT: range(2), Effort.FULL: range(10)}
_EPOCHS = {Effort.SHORT: 24, Effort.FULL: None}


@dataclass(frozen=True, slots=True)
class History:
    """The stage changes that a run's journal holds, and the stage each seed was left in."""

    changes: list[Mapping[str, Any]]
    left_in: dict[str, str]

    @property
    def kept(self) -> int:
        """How many seeds became part of the network."""
        return sum(change["to_stage"] == "FOSSILIZED" for change in self.changes)


def measure(effort: Effort) -> list[Row]:
    """Train the default run over base seeds and read the journals."""
    seeds = _SEEDS[effort]
    with tempfile.TemporaryDirectory() as scratch:
        plans = [Plan(seed, _EPOCHS[effort], Path(scratch)) for seed in seeds]
        runs = list(run_all(plans, run, effort).values())
    return [
        judged(
            f"{RUN}: runs that keep a seed",
            sum(each.kept > 0 for each in runs) / len(runs),
            "of runs",
            Bar("at least", LEAST_KEEPING),
            note=f"kept by base seeds {seeds[0]} to {seeds[-1]}: "
            f"{', '.join(str(each.kept) for each in runs)}",
        ),
        judged(
            "stage changes that their gate does not explain",
            float(sum(not _explained(change) for each in runs for change in each.changes)),
            "",
            Bar("at most", 0.0),
            note=f"of {sum(len(each.changes) for each in runs)} in the journals",
        ),
        judged(
            "seeds whose history has a gap",
            float(sum(_gaps(each) for each in runs)),
            "",
            Bar("at most", 0.0),
            note=f"of {sum(len(each.left_in) for each in runs)}",
        ),
    ]


def run(plan: Plan) -> History:
    """Train once and read the journal; kernels that the library has are not proved again."""
    config = load_run(RUN).model_dump()
    options = replace(options_from_run(config), seed=plan.seed, baselines=False, threads=1)
    if plan.epochs is not None:
        options = replace(options, epochs=plan.epochs)
    task = load_task(config["run"]["task"], config["run"]["options"], seed=plan.seed)
    with (
        tempfile.TemporaryDirectory() as scratch,
        closing(Library(plan.library, actor="default-run")) as library,
    ):
        folder = Path(scratch)
        with closing(Engine(task, options, folder=folder, certificates=library)) as engine:
            executor = engine.run().grower.executor
        journal = list(read_journal(folder / "journal.jsonl"))
    assert executor is not None
    return History(
        [record for record in journal if record["kind"] == "transition"],
        {name: planted.stage.name for name, planted in executor.seeds.items()},
    )


def _explained(change: Mapping[str, Any]) -> bool:
    """Whether a stage change carries its gate: verdict, reason, and the numbers it read.

    A seed that is dropped because the run ends was not measured; its reason says so.
    """
    gate = change["gate"]
    if gate is None:
        return (change["from_stage"], change["to_stage"]) in _UNGATED
    dropped = gate["name"] == "G0" and change["to_stage"] == "CULLED"
    return bool(gate["reason"]) and (bool(gate["numbers"]) or dropped)


def _gaps(run: History) -> int:
    """Count the seeds whose changes are not one chain of legal ones, up to where they were left."""
    stages = dict.fromkeys(run.left_in, "DORMANT")
    broken = set()
    for change in run.changes:
        seed, source, target = change["seed"], change["from_stage"], change["to_stage"]
        if stages.get(seed) != source or Stage[target] not in TRANSITIONS[Stage[source]]:
            broken.add(seed)
        stages[seed] = target
    return len(broken | {seed for seed, stage in run.left_in.items() if stages[seed] != stage})


def _without_gate(transition: Any) -> dict[str, Any]:
    return {**transition_record(transition), "gate": None}


_whole_tell = Executor._tell


def _silent_reset(
    executor: Executor, seed: Seed, source: Stage, target: Stage, gate: GateResult | None
) -> None:
    if target is not Stage.RESETTING:
        _whole_tell(executor, seed, source, target, gate)


BENCHMARK = Benchmark(
    name="default-run",
    question="does the default run grow, and does its history say why?",
    timed=False,
    measure=measure,
    mutants=(
        KERNEL_ABSENT.failing(f"{RUN}: runs that keep a seed"),
        Mutant(
            "gates not journaled",
            "a stage change is written down without what allowed it",
            lambda: replaced("esper_async.tolaria.chronicle.transition_record", _without_gate),
            fails=("stage changes that their gate does not explain",),
        ),
        Mutant(
            "a stage change not told",
            "that a slot is being reset happens, and nobody hears of it",
            lambda: replaced("esper_async.kasmina.executor.Executor._tell", _silent_reset),
            fails=("seeds whose history has a gap",),
        ),
    ),
)
