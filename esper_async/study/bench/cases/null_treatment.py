"""What is told of something that does nothing? A run that never grows, and planted noise.

The noise is one pattern, drawn at birth and added to every sample. Its host comes to depend on it,
so that switching it off would look like a great benefit; against the twin it has none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum, isfinite
from typing import Any

from esper_async.kasmina import executor
from esper_async.kasmina.evaluation import Evaluation
from esper_async.kasmina.judgement import paired
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Candidate
from esper_async.kasmina.trend import LossTrend
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
from esper_async.study.bench.planting import PlantOnce
from esper_async.tamiyo.policies import Policy
from esper_async.tasks.mnist1d import make_task
from esper_async.tolaria.grow import grow
from esper_async.tolaria.options import RunOptions

STATIC = "a run that never grows: benefit told"
NOISE = "planted noise: runs whose benefit against the twin contains 0 or lies below"
SITE, BLUEPRINT = "stem.1", "PL002"
LEAST_SHARE = 52 / 60
_RUNS = {Effort.SHORT: 3, Effort.FULL: 60}
_AT, _STEPS_A_BOUNDARY = 4, 32
_GROWTH = GrowthOptions(
    dwell_steps=2 * _STEPS_A_BOUNDARY,
    g2_margin=-1e9,
    g4_margin=1e9,  # it is measured to the end, and never kept
    max_windows=1,
    drill=True,
)
_EPOCHS = _AT + 2 + _GROWTH.ramp_boundaries + _GROWTH.window_boundaries + 2


@dataclass(frozen=True, slots=True)
class Plan:
    """One run with planted noise."""

    seed: int


def measure(effort: Effort) -> list[Row]:
    """Train without growth, then with noise, and read what was told."""
    rows = []
    if wants(STATIC):
        rows.append(_static())
    if wants(NOISE):
        plans = [Plan(seed) for seed in range(_RUNS[effort])]
        told = list(run_all(plans, run, effort).values())
        measured = [benefit for benefit in told if benefit is not None]
        harmless = sum(low <= 0.0 for low in measured)
        lows = ", ".join(f"{low:+.4f}" for low in measured[:6])
        rows.append(
            judged(
                NOISE,
                harmless / len(told),
                "of runs",
                Bar("at least", LEAST_SHARE),
                note=f"{harmless} of {len(told)}; lower bounds {lows} nats ...",
            )
        )
    return rows


def _static() -> Row:
    result = grow(
        make_task(seed=0), epochs=_EPOCHS, policy="static", seed=0, progress=False, threads=1
    )
    benefits = [report["benefit_vs_twin"] for report in result.field_reports]
    total = fsum(abs(benefit["mean"]) for benefit in benefits if benefit is not None)
    kept = len(result.seeds)
    return judged(
        STATIC,
        total + len(benefits) + kept,
        "nats, reports and seeds",
        Bar("at most", 0),
        note=f"{len(benefits)} field reports, {kept} seeds",
    )


def run(plan: Plan) -> float | None:
    """Plant the noise once; return the lower bound of its benefit, None where it has none."""
    result = grow(
        make_task(seed=plan.seed, schedule="constant"),
        epochs=_EPOCHS,
        policy=PlantOnce(Candidate(SITE, BLUEPRINT), boundary=_AT),
        seed=plan.seed,
        growth=_GROWTH,
        blueprints=[],
        progress=False,
        threads=1,
    )
    (record,) = result.seeds
    benefit: Mapping[str, Any] | None = record["benefit_vs_twin"]
    if benefit is None or benefit["low"] is None or not isfinite(benefit["low"]):
        return None
    return float(benefit["low"])


def _by_dependence(
    trial: Trial, results: Mapping[str, Evaluation], trend: LossTrend, *, boundary: int
) -> None:
    trial.seed.benefit_vs_twin = paired(results, "off", "host")


def _grows(options: RunOptions) -> Policy:
    return PlantOnce(Candidate(SITE, "BP003"), boundary=_AT)


BENCHMARK = Benchmark(
    name="null-treatment",
    question="is anything told of what does nothing?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "dependence taken for benefit",
            "the seed on against the seed off, after blending",
            lambda: replaced(f"{executor.__name__}.measure_benefit", _by_dependence),
            fails=(NOISE,),
        ),
        Mutant(
            "static grows",
            "the policy that never acts plants one",
            lambda: replaced(f"{RunOptions.__module__}.RunOptions.make_policy", _grows),
            fails=(STATIC,),
        ),
    ),
)
