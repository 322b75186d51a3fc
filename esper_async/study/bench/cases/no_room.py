"""Is a host that has no room left alone? `heuristic` on a wide and deep MNIST-1D host.

No room is a matter of schedule too: the same host has some in its first epochs, where a seed may
well speed it up. The short form therefore starts growing late. Each seed trains the host twice,
with and without growth: same initialisation, split and order. What growth adds and what the run
loses by it are read on the test split, once.
"""

from dataclasses import dataclass

import numpy as np

from esper_async.kasmina import executor
from esper_async.kasmina.gates import GateResult
from esper_async.kasmina.options import GrowthOptions
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
    shown,
)
from esper_async.study.statistics import paired_difference
from esper_async.tamiyo.policies import Policy
from esper_async.tamiyo.policies.heuristic import HeuristicPolicy
from esper_async.tamiyo.policies.sampled import START_BOUNDARY
from esper_async.tasks.mnist1d import make_task
from esper_async.tolaria.grow import GrowResult, grow

WIDTH, DEPTH = 24, 4
MOST_ACCEPTED, MOST_ADDED, MOST_LOST = 0.05, 0.05, 0.3


@dataclass(frozen=True, slots=True)
class Plan:
    """A pair of runs: of which seed, how long they last, and how growth goes about it."""

    seed: int
    epochs: int = 80
    start_boundary: int = START_BOUNDARY
    candidates: int = 8


_PLANS = {
    Effort.SHORT: [Plan(0, epochs=30, start_boundary=16, candidates=4)],
    Effort.FULL: [Plan(seed) for seed in range(8)],
}


@dataclass(frozen=True, slots=True)
class Pair:
    """A grown run against the same run without growth; accuracies in %, losses in nats."""

    grown: float
    static: float
    grown_loss: float
    static_loss: float
    added: float
    trials: int
    kept: tuple[str, ...]


def measure(effort: Effort) -> list[Row]:
    """Train every seed with and without growth and compare."""
    plans = _PLANS[effort]
    pairs = list(run_all(plans, run, effort).values())
    added = float(np.mean([pair.added for pair in pairs]))
    grown, static = [pair.grown for pair in pairs], [pair.static for pair in pairs]
    lost = float(np.mean(static) - np.mean(grown))
    accepted, trials = sum(len(pair.kept) for pair in pairs), sum(pair.trials for pair in pairs)
    return [
        judged(
            "trials accepted on a host without room",
            accepted / trials if trials else 0.0,
            "of trials",
            Bar("at most", MOST_ACCEPTED),
            note=f"{accepted} of {trials}{_what_they_brought(pairs)}",
        ),
        judged(
            "parameters added to a host without room",
            added,
            "of the host's",
            Bar("at most", MOST_ADDED),
            note=f"mean of {len(pairs)}; kept: {', '.join(_told(pair) for pair in pairs)}",
        ),
        judged("accuracy lost by growing", lost, "points", Bar("at most", MOST_LOST),
               note=_interval(grown, static)),
        shown("static: test accuracy", float(np.mean(static)), "%",
              note=f"width {WIDTH}, depth {DEPTH}, cosine, {plans[0].epochs} epochs"),
    ]  # fmt: skip


def _told(pair: Pair) -> str:
    return "+".join(pair.kept) or "none"


def _what_they_brought(pairs: list[Pair]) -> str:
    gains = [f"{pair.static_loss - pair.grown_loss:+.3f}" for pair in pairs if pair.kept]
    return f"; test loss of those runs lower by {', '.join(gains)} nats" if gains else ""


def _interval(grown: list[float], static: list[float]) -> str:
    if len(grown) < 2:
        return "one pair: too few for an interval"
    estimate = paired_difference(static, grown)
    return f"95 % interval {estimate.low:+.2f} … {estimate.high:+.2f}, {estimate.count} pairs"


def run(plan: Plan) -> Pair:
    """Train one seed with and without growth."""
    policy = HeuristicPolicy(
        plan.seed, start_boundary=plan.start_boundary, candidates=plan.candidates
    )
    grown, static = _train(policy, plan), _train("static", plan)
    host = static.history[-1]["parameters"]
    whole = sum(parameter.numel() for parameter in grown.model.parameters())
    return Pair(
        grown=100 * grown.test["accuracy"],
        static=100 * static.test["accuracy"],
        grown_loss=grown.test["loss"],
        static_loss=static.test["loss"],
        added=whole / host - 1,
        trials=sum(change["to_stage"] == "BLENDING" for change in grown.transitions),
        kept=tuple(seed["blueprint"] for seed in grown.seeds if seed["stage"] == "FOSSILIZED"),
    )


def _train(policy: str | Policy, plan: Plan) -> GrowResult:
    task = make_task(seed=plan.seed, width=WIDTH, depth=DEPTH)
    return grow(task, epochs=plan.epochs, policy=policy, seed=plan.seed, progress=False, threads=1)


def _unless_harmful(
    trial: Trial, options: GrowthOptions, *, scale: float, boundary: int
) -> GateResult:
    benefit = trial.seed.benefit_vs_twin
    high = None if benefit is None else benefit.high
    passed = high is None or high > 0
    gate = GateResult("G4", passed, "not shown to be harmful", {"high": high}, boundary)
    trial.seed.gates.append(gate)
    return gate


BENCHMARK = Benchmark(
    name="no-room",
    question="is a host that has no room left alone?",
    measure=measure,
    mutants=(
        Mutant(
            "burden of proof reversed",
            "a seed is kept unless it is shown to be harmful",
            lambda: replaced(f"{executor.__name__}.benefit_verdict", _unless_harmful),
        ),
    ),
)
