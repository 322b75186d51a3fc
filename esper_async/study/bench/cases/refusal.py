"""Does growth refuse what does not help, and keep what does? Planted kernels, many trials.

Noise that can learn, noise that cannot, and a rotation are planted on the 858-parameter MNIST-1D
host. In the harder half they are waved through to their trial, so that the last gate alone must
see them. A refused run adopts its twin: it must end where the run without the seed ends.
"""

from dataclasses import dataclass

from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Candidate
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
class Ending:
    """How a planted seed ended, and the test loss of its run."""

    kept: bool
    on_trial: bool
    test_loss: float


def measure(effort: Effort) -> list[Row]:
    """Plant every kind in run after run and count what is kept."""
    seeds = range(_TRIALS[effort])
    alone = {seed: _ending(None, seed, only_g4=False).test_loss for seed in seeds}
    rows = []
    for name, blueprint in PLANTED.items():
        rows += _planted_rows(name, blueprint, alone, only_g4=True)
        if effort is Effort.FULL:
            rows += _planted_rows(name, blueprint, alone, only_g4=False)
    helped = [_ending(HELPFUL, seed, only_g4=False) for seed in seeds]
    share = sum(ending.kept for ending in helped) / len(helped)
    gain = sum(alone[seed] - ending.test_loss for seed, ending in zip(seeds, helped, strict=True))
    rows.append(
        judged(
            f"{HELPFUL}, which helps: kept",
            share,
            "of trials",
            Bar("at least", LEAST_KEPT),
            note=f"{len(helped)} trials; test loss lower by {gain / len(helped):.3f} nats",
        )
    )
    return rows


def _planted_rows(
    name: str, blueprint: str, alone: dict[int, float], *, only_g4: bool
) -> list[Row]:
    endings = {seed: _ending(blueprint, seed, only_g4=only_g4) for seed in alone}
    kept = sum(ending.kept for ending in endings.values()) / len(endings)
    tried = sum(ending.on_trial for ending in endings.values())
    gates = "last gate alone" if only_g4 else "all gates"
    rows = [
        judged(
            f"{name}, {gates}: accepted",
            kept,
            "of trials",
            Bar("at most", MOST_ACCEPTED),
            note=f"{len(endings)} planted, {tried} came to trial",
        )
    ]
    losses = [ending.test_loss - alone[seed] for seed, ending in endings.items() if not ending.kept]
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


def _ending(blueprint: str | None, seed: int, *, only_g4: bool) -> Ending:
    candidates = () if blueprint is None else (Candidate(SITE, blueprint),)
    result = grow(
        make_task(seed=seed, schedule="constant"),
        epochs=EPOCHS,
        policy=PlantOnce(*candidates, boundary=4 if candidates else 0),
        seed=seed,
        blueprints=[HELPFUL],
        growth=GrowthOptions(
            drill=True, parameter_budget=100.0, g2_margin=-1e9 if only_g4 else -0.02
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
