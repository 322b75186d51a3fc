"""Is a host that has no room left alone? `heuristic` where nothing can help, and where little does.

The first host has no room by construction: its loss starts at the lowest there is. The second, a
wide and deep MNIST-1D host, is a practical one: more width or depth brings it little, but it
overfits in the end, so that now and then a seed does help. There, only a seed whose run ends no
better than the same run without growth counts as wrongly kept.
"""

from dataclasses import dataclass
from typing import Literal

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
from esper_async.study.bench.known_limit import make_known_limit
from esper_async.study.statistics import paired_difference
from esper_async.tasks.mnist1d import make_task
from esper_async.tasks.recipe import Schedule
from esper_async.tolaria.grow import GrowResult, grow
from esper_async.tolaria.task import Task

WIDTH, DEPTH = 24, 4
MOST_ACCEPTED, MOST_LOST_POINTS = 0.05, 0.3
_MOST_LOST_NATS = {Effort.SHORT: 1e-6, Effort.FULL: 0.005}
"""In the one trial of the short form none is kept, and then the run is the one without growth."""
Host = Literal["at its limit", "wide and deep"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A pair of runs, with and without growth: same initialisation, samples and order."""

    host: Host
    seed: int
    epochs: int
    schedule: Schedule
    learning_rate: float = 1e-2


_PLANS = {
    Effort.SHORT: [Plan("at its limit", 0, 24, "constant")],
    Effort.FULL: [
        *(Plan("wide and deep", seed, 80, "cosine") for seed in range(8)),
        *(Plan("at its limit", seed, 40, schedule)
          for schedule in ("constant", "cosine") for seed in range(16)),
    ],
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    """A grown run against the same run without growth; accuracies in %, losses in nats."""

    grown: float
    static: float
    grown_loss: float
    static_loss: float
    limit: float | None
    added: float
    trials: int
    kept: tuple[str, ...]


def measure(effort: Effort) -> list[Row]:
    """Train every seed with and without growth and compare."""
    pairs = run_all(_PLANS[effort], run, effort)
    at_its_limit = [pair for plan, pair in pairs.items() if plan.host == "at its limit"]
    rows = _at_its_limit(at_its_limit, Bar("at most", _MOST_LOST_NATS[effort]))
    if wide := [pair for plan, pair in pairs.items() if plan.host == "wide and deep"]:
        rows += _wide_and_deep(wide)
    return rows


def _at_its_limit(pairs: list[Pair], loss_bar: Bar) -> list[Row]:
    accepted, trials = _accepted(pairs), sum(pair.trials for pair in pairs)
    static_over = np.mean([pair.static_loss - (pair.limit or 0.0) for pair in pairs])
    lost = max(pair.grown_loss - pair.static_loss for pair in pairs)
    return [
        judged(
            "host at its limit: trials accepted",
            accepted / trials if trials else 0.0,
            "of trials",
            Bar("at most", MOST_ACCEPTED),
            note=f"{accepted} of {trials} in {len(pairs)} runs",
        ),
        judged("host at its limit: test loss lost by growing", lost, "nats", loss_bar,
               note="largest of all pairs"),
        shown("host at its limit: static over the limit", float(static_over), "nats",
              note="mean test loss above that of the net which drew the labels"),
    ]  # fmt: skip


def _wide_and_deep(pairs: list[Pair]) -> list[Row]:
    accepted, trials = _accepted(pairs), sum(pair.trials for pair in pairs)
    wrongly = sum(len(pair.kept) for pair in pairs if pair.grown_loss >= pair.static_loss)
    grown, static = [pair.grown for pair in pairs], [pair.static for pair in pairs]
    return [
        judged(
            "wide and deep host: trials accepted, and the run ended no better",
            wrongly / trials if trials else 0.0,
            "of trials",
            Bar("at most", MOST_ACCEPTED),
            note=f"{accepted} of {trials} accepted{_what_they_brought(pairs)}",
        ),
        judged(
            "wide and deep host: accuracy lost by growing",
            float(np.mean(static) - np.mean(grown)),
            "points",
            Bar("at most", MOST_LOST_POINTS),
            note=_interval(grown, static),
        ),
        shown("wide and deep host: parameters added", float(np.mean([p.added for p in pairs])),
              "of the host's", note=f"kept: {', '.join(_told(pair) for pair in pairs)}"),
        shown("wide and deep host: static test accuracy", float(np.mean(static)), "%",
              note=f"MNIST-1D, width {WIDTH}, depth {DEPTH}, cosine, 80 epochs"),
    ]  # fmt: skip


def _accepted(pairs: list[Pair]) -> int:
    return sum(len(pair.kept) for pair in pairs)


def _told(pair: Pair) -> str:
    return "+".join(pair.kept) or "none"


def _what_they_brought(pairs: list[Pair]) -> str:
    gains = [f"{pair.static_loss - pair.grown_loss:+.3f}" for pair in pairs if pair.kept]
    return f"; test loss of those runs lower by {', '.join(gains)} nats" if gains else ""


def _interval(grown: list[float], static: list[float]) -> str:
    estimate = paired_difference(static, grown)
    return f"95 % interval {estimate.low:+.2f} … {estimate.high:+.2f}, {estimate.count} pairs"


def run(plan: Plan) -> Pair:
    """Train one seed with and without growth."""
    (grown, limit), (static, _) = (_train(plan, policy) for policy in ("heuristic", "static"))
    host = static.history[-1]["parameters"]
    whole = sum(parameter.numel() for parameter in grown.model.parameters())
    return Pair(
        grown=100 * grown.test["accuracy"],
        static=100 * static.test["accuracy"],
        grown_loss=grown.test["loss"],
        static_loss=static.test["loss"],
        limit=limit,
        added=whole / host - 1,
        trials=sum(change["to_stage"] == "BLENDING" for change in grown.transitions),
        kept=tuple(seed["blueprint"] for seed in grown.seeds if seed["stage"] == "FOSSILIZED"),
    )


def _train(plan: Plan, policy: str) -> tuple[GrowResult, float | None]:
    task, limit = _task(plan)
    result = grow(
        task, epochs=plan.epochs, policy=policy, seed=plan.seed, progress=False, threads=1
    )
    return result, limit


def _task(plan: Plan) -> tuple[Task, float | None]:
    rate, schedule = plan.learning_rate, plan.schedule
    if plan.host == "at its limit":
        made = make_known_limit(plan.seed, learning_rate=rate, schedule=schedule)
        return made.task, made.test_loss
    task = make_task(
        seed=plan.seed, width=WIDTH, depth=DEPTH, learning_rate=rate, schedule=schedule
    )
    return task, None


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
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "burden of proof reversed",
            "a seed is kept unless it is shown to be harmful",
            lambda: replaced(f"{executor.__name__}.benefit_verdict", _unless_harmful),
            fails=(
                "host at its limit: trials accepted",
                "host at its limit: test loss lost by growing",
            ),
        ),
    ),
)
