"""Does growing help? `heuristic`, which picks for itself, on the 858-parameter MNIST-1D host.

Paired seeds fixed in advance (initialisation, split and order vary together). Every arm's rate is
tuned on the decision split, on other seeds; the test split is read once a run. Total compute,
shadow passes and twins included, is measured and shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from esper_async.study.bench.all_runs import run_all
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Row,
    judged,
    shown,
)
from esper_async.study.bench.breaking import BENEFIT_UNMEASURED, KERNEL_ABSENT
from esper_async.study.statistics import paired_difference
from esper_async.tasks.mnist1d import make_task
from esper_async.tasks.recipe import Schedule
from esper_async.tolaria.grow import grow
from esper_async.tolaria.training import NonFiniteLossError

SEEDS = tuple(range(20, 30))
"""Fixed in advance. Seeds 0 and 1 are left out: default widths of kernels were chosen on them."""
TUNING_SEEDS = (100, 101)
RATES = (5e-3, 1e-2, 2e-2, 4e-2, 8e-2, 1.6e-1)
"""The same for every arm, on either side of the best of each.

A host alone likes higher rates than one that grows; with fewer to choose from, the best of `static`
and of `random` lay at the edge.
"""
EPOCHS, SHORT_EPOCHS = 80, 24
ARMS = ("heuristic", "random", "static")
"""The longest runs first, so that no core waits for them at the end."""
_BARS: tuple[tuple[Schedule, float], ...] = (("constant", 8.0), ("cosine", 3.0))


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    arm: str
    schedule: Schedule
    rate: float
    seed: int
    epochs: int


@dataclass(frozen=True, slots=True)
class Result:
    """What a run scored on the decision split and the test split, and what it cost."""

    validation: float
    test: float
    parameters: int
    host_macs: float
    shadow_macs: float
    twin_macs: float
    wall_s: float

    @property
    def total_macs(self) -> float:
        """Everything the run spent."""
        return self.host_macs + self.shadow_macs + self.twin_macs


def measure(effort: Effort) -> list[Row]:
    """Run every arm on every seed and compare by paired seeds."""
    if effort is Effort.SHORT:
        return _short()
    rates = _tuned()
    plans = {
        (arm, schedule): [Plan(arm, schedule, rates[arm, schedule], seed, EPOCHS) for seed in SEEDS]
        for arm, schedule in rates
    }
    ran = run_all(list(chain.from_iterable(plans.values())), run, effort)
    rows: list[Row] = []
    for schedule, bar in _BARS:
        results = {arm: [ran[plan] for plan in plans[arm, schedule]] for arm in reversed(ARMS)}
        rows += _arms(results, schedule, {arm: rates[arm, schedule] for arm in ARMS})
        rows.append(_gain(results, "heuristic", "static", schedule, bar))
        rows.append(_gain(results, "heuristic", "random", schedule, 3.0))
    return rows


def run(plan: Plan) -> Result:
    """Train one arm once."""
    task = make_task(seed=plan.seed, schedule=plan.schedule, learning_rate=plan.rate)
    grown = grow(
        task,
        epochs=plan.epochs,
        policy=plan.arm,
        seed=plan.seed,
        progress=False,
        threads=1,
    )
    return Result(
        validation=grown.history[-1]["validation_accuracy"],
        test=100 * grown.test["accuracy"],
        parameters=sum(parameter.numel() for parameter in grown.model.parameters()),
        host_macs=grown.compute["host_macs"],
        shadow_macs=grown.compute["shadow_macs"],
        twin_macs=grown.compute["twin_macs"],
        wall_s=grown.wall_s,
    )


def _short() -> list[Row]:
    plans = [
        Plan(arm, "constant", 1e-2, seed, SHORT_EPOCHS)
        for arm in ("static", "heuristic")
        for seed in SEEDS[:2]
    ]
    results = [run(plan) for plan in plans]
    by_arm = {"static": results[:2], "heuristic": results[2:]}
    rows = _arms(by_arm, "constant", {"static": 1e-2, "heuristic": 1e-2})
    gains = [
        one.test - other.test
        for one, other in zip(by_arm["heuristic"], by_arm["static"], strict=True)
    ]
    note = f"{SHORT_EPOCHS} epochs, two seeds: too few for an interval"
    rows.append(
        judged("smaller gain of heuristic over static", min(gains), "points", Bar("at least", 4.0),
               note=note)
    )  # fmt: skip
    return rows


def _tuned() -> dict[tuple[str, Schedule], float]:
    """Return each arm's rate with the best mean accuracy on the decision split."""
    cells = [(arm, schedule) for arm in ARMS for schedule, _ in _BARS]
    plans = {
        (*cell, rate): [Plan(*cell, rate, seed, EPOCHS) for seed in TUNING_SEEDS]
        for cell in cells
        for rate in RATES
    }
    found = run_all(list(chain.from_iterable(plans.values())), tuning_score, Effort.FULL)

    def mean(cell: tuple[str, Schedule], rate: float) -> float:
        return float(np.mean([found[plan] for plan in plans[*cell, rate]]))

    return {cell: max(RATES, key=lambda rate: mean(cell, rate)) for cell in cells}


def tuning_score(plan: Plan) -> float:
    """Return a run's accuracy on the decision split; none where the rate makes it diverge."""
    try:
        return run(plan).validation
    except NonFiniteLossError:
        return 0.0


def _arms(
    results: dict[str, list[Result]], schedule: Schedule, rates: dict[str, float]
) -> list[Row]:
    rows = []
    cost = np.mean([result.total_macs for result in results["static"]])
    for arm, found in results.items():
        macs = float(np.mean([result.total_macs for result in found]))
        note = (
            f"rate {rates[arm]:g}; {np.mean([r.parameters for r in found]):.0f} parameters; "
            f"{macs / 1e9:.2f} GMAC in all ({_share(found, 'shadow_macs'):.0%} shadow, "
            f"{_share(found, 'twin_macs'):.0%} twin), {macs / cost:.1f} times static; "
            f"{np.mean([r.wall_s for r in found]):.0f} s a run"
        )
        mean = float(np.mean([result.test for result in found]))
        rows.append(shown(f"{arm}, {schedule}: test accuracy", mean, "%", note=note))
    return rows


def _share(results: Sequence[Result], part: str) -> float:
    return float(np.mean([getattr(result, part) / result.total_macs for result in results]))


def _gain(
    results: dict[str, list[Result]], arm: str, other: str, schedule: Schedule, bar: float
) -> Row:
    estimate = paired_difference(_tests(results[arm]), _tests(results[other]))
    return judged(
        f"{arm} over {other}, {schedule}: lower 95 % bound",
        estimate.low,
        "points",
        Bar("at least", bar),
        note=f"mean {estimate.value:+.1f} [{estimate.low:+.1f}, {estimate.high:+.1f}], "
        f"{estimate.count} paired seeds",
    )


def _tests(results: Sequence[Result]) -> list[float]:
    return [result.test for result in results]


BENCHMARK = Benchmark(
    name="growth",
    question="does growing help a host that is too small?",
    measure=measure,
    mutants=(KERNEL_ABSENT, BENEFIT_UNMEASURED),
)
