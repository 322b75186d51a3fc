"""Does growth refuse what does not help, and keep what does? Planted kernels, many trials.

Noise that can learn, noise that cannot, and a rotation are planted on the 858-parameter MNIST-1D
host. In the harder half they are waved through to their trial, so that the last gate alone must
see them. A refused run adopts its twin: it must end where the run without the seed ends.

The kernel that helps is called so because it does on other seeds: for every trial, the mean benefit
of all other trials is held against the spread that null pairs show at the same rate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from esper_async.kasmina import executor
from esper_async.kasmina.gates import GateResult
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Candidate
from esper_async.kasmina.trial import Trial
from esper_async.study.bench.all_runs import run_all
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    wants,
)
from esper_async.study.bench.breaking import BENEFIT_UNMEASURED, DEPENDENCE_READ
from esper_async.study.bench.cases import null_pairs
from esper_async.study.bench.planting import PlantOnce
from esper_async.tasks.mnist1d import make_task
from esper_async.tolaria.grow import grow

SITE, HELPFUL = "stem.1", "BP009"
PLANTED = {"trainable noise": "PL001", "fixed noise": "PL002", "rotation": "PL003"}
_BENEFIT = f"{HELPFUL} at {SITE}: mean benefit on other seeds"
_KEPT = f"{HELPFUL}, which helps: kept"
EPOCHS, RATE = 24, 1e-2
MOST_ACCEPTED, LEAST_KEPT = 0.05, 0.90
HELPS_SPREADS = 3.0
"""What helps has a mean benefit of more than so many times the spread of null pairs."""
MOST_LOSS = 1e-6
_TRIALS = {Effort.SHORT: 2, Effort.FULL: 30}
_NULL_PAIRS = {
    Effort.SHORT: [null_pairs.Plan(0, RATE, EPOCHS)],
    Effort.FULL: [null_pairs.Plan(seed, RATE) for seed in null_pairs.SEEDS],
}


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: which kernel is planted, if any, and whether it is waved through to its trial."""

    blueprint: str | None
    seed: int
    only_g4: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """How a planted seed ended, and the test loss of its run.

    `benefit` is the last that was measured against its twin, in nats, if it was.
    """

    kept: bool
    on_trial: bool
    test_loss: float
    benefit: float | None


Endings = dict[Plan, Ending]


def measure(effort: Effort) -> list[Row]:
    """Plant every kind in run after run and count what is kept."""
    seeds = range(_TRIALS[effort])
    gates = (True,) if effort is Effort.SHORT else (True, False)
    planted = [
        (name, only_g4)
        for name in PLANTED
        for only_g4 in gates
        if wants(_accepted(name, only_g4), _lost(name, only_g4))
    ]
    helpful = [(HELPFUL, False)] if wants(_BENEFIT, _KEPT) else []
    kinds = [(None, False), *helpful, *((PLANTED[name], only_g4) for name, only_g4 in planted)]
    plans = [Plan(blueprint, seed, only_g4) for blueprint, only_g4 in kinds for seed in seeds]
    endings = run_all(plans, run, effort)
    rows = []
    for name, only_g4 in planted:
        rows += _planted_rows(name, endings, only_g4=only_g4)
    if helpful:
        nulls = null_pairs.pooled(run_all(_NULL_PAIRS[effort], null_pairs.run, effort).values())
        rows += _helpful_rows(endings, nulls)
    return rows


def _accepted(name: str, only_g4: bool) -> str:
    return f"{name}, {_gates(only_g4)}: accepted"


def _lost(name: str, only_g4: bool) -> str:
    return f"{name}, {_gates(only_g4)}: refused, and the run lost"


def _gates(only_g4: bool) -> str:
    return "last gate alone" if only_g4 else "all gates"


def _planted_rows(name: str, endings: Endings, *, only_g4: bool) -> list[Row]:
    found = {
        plan.seed: ending
        for plan, ending in endings.items()
        if plan.blueprint == PLANTED[name] and plan.only_g4 == only_g4
    }
    kept = sum(ending.kept for ending in found.values()) / len(found)
    tried = sum(ending.on_trial for ending in found.values())
    rows = [
        judged(
            _accepted(name, only_g4),
            kept,
            "of trials",
            Bar("at most", MOST_ACCEPTED),
            note=f"{len(found)} planted, {tried} came to trial",
        )
    ]
    losses = [
        ending.test_loss - endings[Plan(None, seed)].test_loss
        for seed, ending in found.items()
        if not ending.kept
    ]
    if losses:
        rows.append(
            judged(
                _lost(name, only_g4),
                max(losses),
                "nats",
                Bar("at most", MOST_LOSS),
                note="largest, in test loss, against the run without the seed",
            )
        )
    return rows


def _helpful_rows(endings: Endings, nulls: null_pairs.Trials) -> list[Row]:
    helped = {plan.seed: each for plan, each in endings.items() if plan.blueprint == HELPFUL}
    elsewhere = [
        _mean_benefit([other for seed, other in helped.items() if seed != held_out])
        for held_out in helped
    ]
    gain = sum(
        endings[Plan(None, seed)].test_loss - each.test_loss for seed, each in helped.items()
    )
    return [
        judged(
            _BENEFIT,
            math.nan if any(map(math.isnan, elsewhere)) else min(elsewhere),
            "nats",
            Bar("at least", HELPS_SPREADS * nulls.spread),
            note=f"the smallest, leaving out one seed after the other; the bar is "
            f"{HELPS_SPREADS:g} times the spread of null pairs, {nulls.spread:.4f} nats over "
            f"{len(nulls.benefits)} verdicts",
        ),
        judged(
            _KEPT,
            sum(each.kept for each in helped.values()) / len(helped),
            "of trials",
            Bar("at least", LEAST_KEPT),
            note=f"{len(helped)} trials; test loss lower by {gain / len(helped):.3f} nats",
        ),
    ]


def _mean_benefit(endings: Sequence[Ending]) -> float:
    """Return the mean over those in which it was measured; not a number if in none."""
    measured = [each.benefit for each in endings if each.benefit is not None]
    return fmean(measured) if measured else math.nan


def run(plan: Plan) -> Ending:
    """Train once, with its kernel planted at boundary 4."""
    candidates = () if plan.blueprint is None else (Candidate(SITE, plan.blueprint),)
    result = grow(
        make_task(seed=plan.seed, schedule="constant", learning_rate=RATE),
        epochs=EPOCHS,
        policy=PlantOnce(*candidates, boundary=4 if candidates else 0),
        seed=plan.seed,
        blueprints=[HELPFUL],
        growth=GrowthOptions(
            drill=True, parameter_budget=100.0, g2_margin=-1e9 if plan.only_g4 else -0.02
        ),
        progress=False,
        threads=1,
    )
    stages = {transition["to_stage"] for transition in result.transitions}
    benefits = [each["benefit_vs_twin"] for each in result.seeds]
    return Ending(
        "FOSSILIZED" in stages,
        "BLENDING" in stages,
        result.test["loss"],
        next((benefit["mean"] for benefit in benefits if benefit is not None), None),
    )


def _open_gate(trial: Trial, options: GrowthOptions, *, scale: float, boundary: int) -> GateResult:
    gate = GateResult("G4", True, "not asked", {}, boundary)
    trial.seed.gates.append(gate)
    return gate


BENCHMARK = Benchmark(
    name="refusal",
    question="does growth refuse what does not help, and keep what does?",
    timed=False,
    measure=measure,
    mutants=(
        DEPENDENCE_READ.failing(
            "fixed noise, last gate alone: accepted", "rotation, last gate alone: accepted"
        ),
        Mutant(
            "the last gate stands open",
            "whatever comes to its trial is kept, noise that has learned to be quiet as well",
            lambda: replaced(f"{executor.__name__}.benefit_verdict", _open_gate),
            fails=("*, last gate alone: accepted",),
        ),
        BENEFIT_UNMEASURED.failing(_BENEFIT, _KEPT),
        Mutant(
            "no twin to go back to",
            "a refused seed is taken out of the host that has adapted to it",
            lambda: replaced("esper_async.kasmina.branch.Branch.adopt", lambda *_: None),
            fails=("*: refused, and the run lost",),
        ),
    ),
)
