"""Do the intervals hold what they promise? 95 % of them should contain the truth."""

from collections.abc import Callable
from typing import Any

import numpy as np

from esper_async.study import statistics
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
)

RUNS = 20
GAIN = 0.5
LEAST_COVERAGE = 0.90
MOST_FALSE_ALARMS = 0.10
_TRIALS = {Effort.SHORT: 400, Effort.FULL: 4000}

Interval = Callable[[Any, Any], statistics.Estimate]


def measure(effort: Effort) -> list[Row]:
    """Draw paired arms with a known gain, and with none, and count what the intervals say."""
    rows = []
    for name, interval in (("t-interval", _student), ("paired bootstrap", _bootstrap)):
        hits = 1.0 - _share_excluding(interval, effort, gain=GAIN, truth=GAIN)
        alarms = _share_excluding(interval, effort, gain=0.0, truth=0.0)
        rows += [
            judged(f"{name}: contains the true gain", hits, "", Bar("at least", LEAST_COVERAGE)),
            judged(f"{name}: false alarms", alarms, "", Bar("at most", MOST_FALSE_ALARMS)),
            judged(f"{name}: sees the gain", _power(interval, effort), "", Bar("at least", 0.4)),
        ]
    return rows


def _share_excluding(interval: Interval, effort: Effort, *, gain: float, truth: float) -> float:
    generator = np.random.default_rng(7)
    found = [
        interval(*_paired_arms(generator, gain)).excludes(truth) for _ in range(_TRIALS[effort])
    ]
    return float(np.mean(found))


def _power(interval: Interval, effort: Effort) -> float:
    return _share_excluding(interval, effort, gain=GAIN, truth=0.0)


def _paired_arms(generator: np.random.Generator, gain: float) -> tuple[Any, Any]:
    """Draw (treated, control), each (RUNS,): seeds differ far more than the arms do."""
    common = generator.normal(0.0, 3.0, RUNS)
    treated = common + gain + generator.normal(0.0, 0.7, RUNS)
    return treated, common + generator.normal(0.0, 0.7, RUNS)


def _student(treated: Any, control: Any) -> statistics.Estimate:
    return statistics.paired_difference(treated, control)


def _bootstrap(treated: Any, control: Any) -> statistics.Estimate:
    return statistics.paired_bootstrap([treated], [control], statistics.mean, resamples=200)


BENCHMARK = Benchmark(
    name="intervals",
    question="do 95 % intervals contain the truth 95 % of the time?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "intervals far too wide",
            "a quantile that is too large never claims anything",
            lambda: replaced("esper_async.study.statistics.student_t_quantile", lambda *_: 10.0),
            fails=("t-interval: sees the gain",),
        ),
        Mutant(
            "pairs torn apart",
            "arms are compared with another seed's run",
            lambda: replaced(f"{__name__}._paired_arms", _torn_arms),
            fails=("*: sees the gain",),
        ),
        Mutant(
            "half-width intervals",
            "a quantile that is too small claims differences that are not there",
            lambda: replaced("esper_async.study.statistics.student_t_quantile", lambda *_: 1.0),
            fails=("t-interval: contains the true gain", "t-interval: false alarms"),
        ),
        Mutant(
            "quartiles for an interval",
            "the bootstrap hands out the middle half of what it drew",
            lambda: replaced("esper_async.study.statistics._bootstrap", _middle_half),
            fails=("paired bootstrap: contains the true gain", "paired bootstrap: false alarms"),
        ),
    ),
)

_whole_arms = _paired_arms
_whole_bootstrap = statistics._bootstrap


def _torn_arms(generator: np.random.Generator, gain: float) -> tuple[Any, Any]:
    treated, control = _whole_arms(generator, gain)
    return treated, generator.permutation(control)


def _middle_half(
    value: float, of: Callable[[Any], float], strata: Any, seed: int, resamples: int, _: float
) -> statistics.Estimate:
    return _whole_bootstrap(value, of, strata, seed, resamples, 0.5)
