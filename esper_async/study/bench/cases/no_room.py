"""Is a host that has no room left alone? `heuristic` on a wide and deep MNIST-1D host.

Each seed trains the host twice, with and without growth: same initialisation, split and order.
What growth adds and what the run loses by it are read on the test split, once.
"""

from dataclasses import dataclass

import numpy as np

from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Row,
    judged,
    shown,
)
from esper_async.study.bench.breaking import DEPENDENCE_READ
from esper_async.study.statistics import paired_difference
from esper_async.tasks.mnist1d import make_task
from esper_async.tolaria.grow import GrowResult, grow

WIDTH, DEPTH = 24, 4
MOST_ADDED, MOST_LOST = 0.05, 0.3
MOST_LOST_SHORT = 1.0
"""Two runs of a few epochs cannot tell less apart."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a run lasts, and over which seeds."""

    epochs: int
    seeds: range


_PLANS = {Effort.SHORT: Plan(24, range(1)), Effort.FULL: Plan(80, range(8))}


@dataclass(frozen=True, slots=True)
class Pair:
    """A grown run against the same run without growth; accuracies in %."""

    grown: float
    static: float
    added: float
    kept: tuple[str, ...]


def measure(effort: Effort) -> list[Row]:
    """Train every seed with and without growth and compare."""
    plan = _PLANS[effort]
    pairs = [_pair(seed, plan.epochs) for seed in plan.seeds]
    added = float(np.mean([pair.added for pair in pairs]))
    grown, static = [pair.grown for pair in pairs], [pair.static for pair in pairs]
    lost = float(np.mean(static) - np.mean(grown))
    most = MOST_LOST if effort is Effort.FULL else MOST_LOST_SHORT
    return [
        judged(
            "parameters added to a host without room",
            added,
            "of the host's",
            Bar("at most", MOST_ADDED),
            note=f"mean of {len(pairs)}; kept: {', '.join(_told(pair) for pair in pairs)}",
        ),
        judged("accuracy lost by growing", lost, "points", Bar("at most", most),
               note=_interval(grown, static)),
        shown("static: test accuracy", float(np.mean(static)), "%",
              note=f"width {WIDTH}, depth {DEPTH}, cosine, {plan.epochs} epochs"),
    ]  # fmt: skip


def _told(pair: Pair) -> str:
    return "+".join(pair.kept) or "none"


def _interval(grown: list[float], static: list[float]) -> str:
    if len(grown) < 2:
        return "one pair: too few for an interval"
    estimate = paired_difference(static, grown)
    return f"95 % interval {estimate.low:+.2f} … {estimate.high:+.2f}, {estimate.count} pairs"


def _pair(seed: int, epochs: int) -> Pair:
    with_growth, without = _train("heuristic", seed, epochs), _train("static", seed, epochs)
    host = without.history[-1]["parameters"]
    whole = sum(parameter.numel() for parameter in with_growth.model.parameters())
    return Pair(
        grown=100 * with_growth.test["accuracy"],
        static=100 * without.test["accuracy"],
        added=whole / host - 1,
        kept=tuple(
            entry["blueprint"] for entry in with_growth.seeds if entry["stage"] == "FOSSILIZED"
        ),
    )


def _train(policy: str, seed: int, epochs: int) -> GrowResult:
    task = make_task(seed=seed, width=WIDTH, depth=DEPTH)
    return grow(task, epochs=epochs, policy=policy, seed=seed, progress=False, threads=1)


BENCHMARK = Benchmark(
    name="no-room",
    question="is a host that has no room left alone?",
    measure=measure,
    mutants=(DEPENDENCE_READ,),
)
