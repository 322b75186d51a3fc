"""What does each blueprint contribute to small hosts, before anything adapts to it?

Every production and experimental blueprint trains in shadow at every site of a host at the same
time: they are invisible to each other and to the host, so that one run measures them all. Its clean
contribution (shadow on against off, the host's weights untouched) is taken when its dwell is over;
then all are removed. It ranks what may come to a trial; how much a host gains in the end it does
not say. The identity is among them, and must contribute nothing.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from esper_async.kasmina import judgement
from esper_async.kasmina.judgement import paired
from esper_async.kasmina.kernels import REGISTRY
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.quantity import Quantity
from esper_async.study.bench.all_runs import run_all
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
from esper_async.study.bench.breaking import KERNEL_ABSENT
from esper_async.study.bench.planting import PlantEverything
from esper_async.study.statistics import Estimate, paired_difference
from esper_async.tasks import mnist1d, mnist5k, shakespeare
from esper_async.tolaria.grow import grow

SEEDS = tuple(range(60, 65))
"""Fixed in advance, and used for nothing else."""
HELPS = 0.005
"""Nats that the lower bound must reach at some site of some task; G4's default margin."""
IDENTITY = "BP001"
_TASKS: Mapping[str, Any] = {"mnist1d": mnist1d, "mnist5k": mnist5k, "shakespeare": shakespeare}
_SITES: Mapping[str, Mapping[str, str] | None] = {
    "mnist1d": None,
    "mnist5k": None,
    "shakespeare": {"embedding": "embedding", "blocks.0": "blocks.0"},
}
_BEFORE, _DWELL_STEPS = 8, 400
_SHORT_BEFORE, _SHORT_DWELL_STEPS = 2, 96
_SHORT_AMONG = (IDENTITY, "BP003", "BP009", "BP019")
_IDENTITY = "the identity: largest contribution"
_BEST = "mnist1d: mean contribution of the best blueprint"
_UNMEASURED = "planted and not measured"


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: what is legal is planted after so many epochs, and judged when it has dwelt."""

    task: str
    seed: int
    before: int
    dwell_steps: int
    among: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What one candidate contributed, in nats; None where that was not measured."""

    blueprint: str
    site: str
    contribution: float | None


def measure(effort: Effort) -> list[Row]:
    """Measure every blueprint on every task and seed."""
    if effort is Effort.SHORT:
        plans = [Plan("mnist1d", SEEDS[0], _SHORT_BEFORE, _SHORT_DWELL_STEPS, _SHORT_AMONG)]
    else:
        plans = [Plan(task, seed, _BEFORE, _DWELL_STEPS) for task in _TASKS for seed in SEEDS]
    ran = run_all(plans, run, effort)
    found = [each for several in ran.values() for each in several]
    places = _by_place(ran)
    rows = [*_judged(found, places)]
    if effort is Effort.FULL:
        rows += [*_each(places), *_families(places)]
    return rows


def run(plan: Plan) -> list[Found]:
    """Train a host with everything in its shadow; return what each candidate contributed."""
    task = _TASKS[plan.task].make_task(seed=plan.seed, schedule="constant")
    boundaries = plan.before + -(-plan.dwell_steps // len(task.train_loader)) + 1
    grown = grow(
        task,
        epochs=boundaries,
        policy=PlantEverything(boundary=plan.before),
        seed=plan.seed,
        sites=_SITES[plan.task],
        blueprints=None if plan.among is None else list(plan.among),
        growth=GrowthOptions(
            tiers=("production", "experimental"),
            max_candidates=100,
            parameter_budget=1e6,
            dwell_steps=plan.dwell_steps,
            g2_margin=1e6,  # nobody goes on to a trial
        ),
        state_dir=None,
        progress=False,
        threads=1,
    )
    return [
        Found(
            seed["blueprint"],
            seed["site"],
            None if seed["clean_contribution"] is None else seed["clean_contribution"]["mean"],
        )
        for seed in grown.seeds
    ]


_Places = Mapping[tuple[str, str, str], list[float]]
"""The contributions of (task, blueprint, site), one a seed."""


def _by_place(ran: Mapping[Plan, list[Found]]) -> _Places:
    places: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for plan, several in ran.items():
        for each in several:
            if each.contribution is not None:
                places[plan.task, each.blueprint, each.site].append(each.contribution)
    return places


def _judged(found: Sequence[Found], places: _Places) -> list[Row]:
    null = [each.contribution for each in found if each.blueprint == IDENTITY]
    measured = [abs(value) for value in null if value is not None]
    means = [float(np.mean(values)) for (task, _, _), values in places.items() if task == "mnist1d"]
    return [
        judged(
            _IDENTITY,
            max(measured, default=float("nan")),
            "nats",
            Bar("at most", 1e-9),
            note=f"{len(measured)} measurements: the null treatment",
        ),
        judged(_BEST, max(means, default=float("nan")), "nats", Bar("at least", 0.05)),
        judged(
            _UNMEASURED,
            sum(each.contribution is None for each in found),
            "",
            Bar("at most", 0),
            note=f"of {len(found)} candidates",
        ),
    ]


def _each(places: _Places) -> list[Row]:
    rows = []
    for task, blueprint in dict.fromkeys((task, blueprint) for task, blueprint, _ in places):
        sites = {
            site: _estimate(values)
            for (of, name, site), values in places.items()
            if (of, name) == (task, blueprint)
        }
        best = max(sites, key=lambda site: sites[site].value)
        estimate = sites[best]
        note = f"at {best}, the best of {len(sites)} sites; {_family(blueprint)}"
        name = REGISTRY[blueprint].blueprint.name
        row = shown(f"{task}: {blueprint} {name}", estimate.value, "nats", note=note)
        rows.append(replace(row, interval=(estimate.low, estimate.high)))
    return rows


def _families(places: _Places) -> list[Row]:
    """Say of every family how much the best of it contributed, and where none ever helped."""
    best: dict[str, tuple[float, float, str]] = {}
    for (task, blueprint, site), values in places.items():
        estimate = _estimate(values)
        entry = (estimate.low, estimate.value, f"{blueprint} at {site} of {task}")
        best[_family(blueprint)] = max(best.get(_family(blueprint), entry), entry)
    rows = [
        shown(
            f"family {family}: the surest of it",
            value,
            "nats",
            note=f"{where}{'' if low >= HELPS else '; never helped'}",
        )
        for family, (low, value, where) in sorted(best.items())
    ]
    never = [family for family, (low, _, _) in sorted(best.items()) if low < HELPS]
    told = ", ".join(never) or "none"
    return [*rows, shown("families that never helped", len(never), "", note=told)]


def _estimate(values: Sequence[float]) -> Estimate:
    return paired_difference(values, [0.0] * len(values))


def _family(blueprint: str) -> str:
    """Name a blueprint's family: the file that it stands in."""
    return REGISTRY[blueprint].__module__.rpartition(".")[2]


# -- mutants ---------------------------------------------------------------------------------------


def _with_what_the_host_learned(*arguments: Any) -> Quantity | None:
    quantity = paired(*arguments)
    return None if quantity is None else replace(quantity, mean=quantity.mean + 0.01)


BENCHMARK = Benchmark(
    name="usefulness",
    question="what does each blueprint contribute to a small host?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "the host's own learning is credited",
            "a contribution contains what the host has learned meanwhile",
            lambda: replaced(f"{judgement.__name__}.paired", _with_what_the_host_learned),
            fails=(_IDENTITY,),
        ),
        KERNEL_ABSENT.failing(_BEST),
        Mutant(
            "contribution never measured",
            "what trained in shadow is not evaluated",
            lambda: replaced(f"{judgement.__name__}.paired", lambda *_: None),
            fails=(_UNMEASURED,),
        ),
    ),
)
