"""Does growth refuse what does not help, and keep what does? Planted kernels, many trials.

Noise that can learn, noise that cannot, and a rotation are planted on the 858-parameter MNIST-1D
host. In the harder half they are waved through to their trial, so that the last gate alone must
see them. A refused run adopts its twin: it must end where the run without the seed ends.
"""

from dataclasses import dataclass

from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Candidate
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
from esper_async.study.bench.breaking import BENEFIT_UNMEASURED, DEPENDENCE_READ
from esper_async.study.bench.planting import PlantOnce
from esper_async.tasks.mnist1d import make_task
from esper_async.tolaria.grow import grow

SITE, HELPFUL = "stem.1", "BP009"
PLANTED = {"trainable noise": "PL001", "fixed noise": "PL002", "rotation": "PL003"}
EPOCHS = 24
MOST_ACCEPTED, LEAST_KEPT = 0.05, 0.90
MOST_LOSS = 1e-6
_TRIALS = {Effort.SHORT: 2, Effort.FULL: 30}


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: which kernel is planted, if any, and whether it is waved through to its trial."""

    blueprint: str | None
    seed: int
    only_g4: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """How a planted seed ended, and the test loss of its run."""

    kept: bool
    on_trial: bool
    test_loss: float


Endings = dict[Plan, Ending]


def measure(effort: Effort) -> list[Row]:
    """Plant every kind in run after run and count what is kept."""
    seeds = range(_TRIALS[effort])
    gates = (True,) if effort is Effort.SHORT else (True, False)
    planted = [(PLANTED[name], only_g4) for name in PLANTED for only_g4 in gates]
    kinds = [(None, False), (HELPFUL, False), *planted]
    plans = [Plan(blueprint, seed, only_g4) for blueprint, only_g4 in kinds for seed in seeds]
    endings = run_all(plans, run, effort)
    rows = []
    for name, blueprint in PLANTED.items():
        for only_g4 in gates:
            rows += _planted_rows(name, blueprint, endings, only_g4=only_g4)
    return [*rows, _helpful_row(endings)]


def _planted_rows(name: str, blueprint: str, endings: Endings, *, only_g4: bool) -> list[Row]:
    found = {
        plan.seed: ending
        for plan, ending in endings.items()
        if plan.blueprint == blueprint and plan.only_g4 == only_g4
    }
    kept = sum(ending.kept for ending in found.values()) / len(found)
    tried = sum(ending.on_trial for ending in found.values())
    gates = "last gate alone" if only_g4 else "all gates"
    rows = [
        judged(
            f"{name}, {gates}: accepted",
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
                f"{name}, {gates}: refused, and the run lost",
                max(losses),
                "nats",
                Bar("at most", MOST_LOSS),
                note="largest, in test loss, against the run without the seed",
            )
        )
    return rows


def _helpful_row(endings: Endings) -> Row:
    helped = {plan.seed: each for plan, each in endings.items() if plan.blueprint == HELPFUL}
    gain = sum(
        endings[Plan(None, seed)].test_loss - each.test_loss for seed, each in helped.items()
    )
    return judged(
        f"{HELPFUL}, which helps: kept",
        sum(each.kept for each in helped.values()) / len(helped),
        "of trials",
        Bar("at least", LEAST_KEPT),
        note=f"{len(helped)} trials; test loss lower by {gain / len(helped):.3f} nats",
    )


def run(plan: Plan) -> Ending:
    """Train once, with its kernel planted at boundary 4."""
    candidates = () if plan.blueprint is None else (Candidate(SITE, plan.blueprint),)
    result = grow(
        make_task(seed=plan.seed, schedule="constant"),
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
    return Ending("FOSSILIZED" in stages, "BLENDING" in stages, result.test["loss"])


BENCHMARK = Benchmark(
    name="refusal",
    question="does growth refuse what does not help, and keep what does?",
    measure=measure,
    mutants=(
        DEPENDENCE_READ,
        BENEFIT_UNMEASURED,
        Mutant(
            "no twin to go back to",
            "a refused seed is taken out of the host that has adapted to it",
            lambda: replaced("esper_async.kasmina.branch.Branch.adopt", lambda *_: None),
        ),
    ),
)
