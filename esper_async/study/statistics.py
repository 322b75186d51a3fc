"""The statistics of a comparison: what is estimated over runs, and how sure that is.

A stratum is a task; its values are one score a run, (n,). Paired arms hold the same runs in the
same order (same seed: initialisation, split and order alike). An interval here is over runs; one
over validation samples is no substitute for it. Resampling draws from a stream of its own, so that
the same scores give the same intervals.

Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", 2021.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scores = NDArray[np.float64]
Statistic = Callable[[Scores], float]

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval, over `count` runs."""

    value: float
    low: float
    high: float
    count: int
    confidence: float = CONFIDENCE

    def excludes(self, other: float) -> bool:
        """Whether `other` lies outside the interval."""
        return not self.low <= other <= self.high


def interquartile_mean(scores: ArrayLike) -> float:
    """Return the mean of the middle half: floor(n / 4) values are dropped at either end.

    Raises:
        ValueError: no scores, or one that is not finite.
    """
    ordered = np.sort(_checked(scores))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def mean(scores: ArrayLike) -> float:
    """Return the plain mean; raises as `interquartile_mean` does."""
    return float(_checked(scores).mean())


def paired_difference(
    treated: ArrayLike, control: ArrayLike, *, confidence: float = CONFIDENCE
) -> Estimate:
    """Return the mean of treated - control, both (n,), with Student's t-interval.

    Raises:
        ValueError: the arms differ in length, or have fewer than two runs.
    """
    differences = _difference(treated, control)
    count = len(differences)
    if count < 2:
        raise ValueError("a t-interval needs at least two paired runs")
    center = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    reach = student_t_quantile(count - 1, confidence) * error
    return Estimate(center, center - reach, center + reach, count, confidence)


def bootstrap_interval(
    strata: Sequence[ArrayLike],
    statistic: Statistic = interquartile_mean,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Return a statistic of all runs, with a stratified percentile bootstrap interval.

    Runs are drawn anew within each stratum, and `statistic` is taken of all of them together.

    Raises:
        ValueError: no strata, an empty one, or a score that is not finite.
    """
    scores = _checked_strata(strata)

    def of(draws: Sequence[NDArray[np.intp]]) -> float:
        parts = [values[draw] for values, draw in zip(scores, draws, strict=True)]
        return statistic(np.concatenate(parts))

    value = statistic(np.concatenate(scores))
    return _bootstrap(value, of, scores, seed, resamples, confidence)


def paired_bootstrap(
    treated: Sequence[ArrayLike],
    control: Sequence[ArrayLike],
    statistic: Statistic = interquartile_mean,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Return statistic(treated) - statistic(control), drawing the same runs of both arms.

    Raises:
        ValueError: the arms differ in strata or runs, or as for `bootstrap_interval`.
    """
    ours, theirs = _checked_pairs(treated, control)

    def of(draws: Sequence[NDArray[np.intp]]) -> float:
        ours_drawn = [values[draw] for values, draw in zip(ours, draws, strict=True)]
        theirs_drawn = [values[draw] for values, draw in zip(theirs, draws, strict=True)]
        return statistic(np.concatenate(ours_drawn)) - statistic(np.concatenate(theirs_drawn))

    value = statistic(np.concatenate(ours)) - statistic(np.concatenate(theirs))
    return _bootstrap(value, of, ours, seed, resamples, confidence)


def probability_of_improvement(
    treated: Sequence[ArrayLike],
    control: Sequence[ArrayLike],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Return how likely a run of `treated` beats one of `control`, averaged over strata.

    Ties count half. 0.5 means no difference. Runs are drawn in pairs for the interval.

    Raises:
        ValueError: as for `paired_bootstrap`.
    """
    ours, theirs = _checked_pairs(treated, control)

    def of(draws: Sequence[NDArray[np.intp]]) -> float:
        chances = [
            _chance_to_beat(one[draw], other[draw])
            for one, other, draw in zip(ours, theirs, draws, strict=True)
        ]
        return float(np.mean(chances))

    value = of([np.arange(len(values)) for values in ours])
    return _bootstrap(value, of, ours, seed, resamples, confidence)


def student_t_quantile(degrees: int, confidence: float) -> float:
    """Return t with P(|T| < t) = confidence, for Student's T with whole degrees of freedom.

    Raises:
        ValueError: degrees below 1, or a confidence outside (0, 1).
    """
    if degrees < 1:
        raise ValueError(f"degrees of freedom must be at least 1, not {degrees}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie in (0, 1), not {confidence}")
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        if _central_probability(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(low)


def _central_probability(angle: float, degrees: int) -> float:
    """P(|T| < sqrt(degrees) tan(angle)); Abramowitz and Stegun 26.7.3 and 26.7.4."""
    cosine, odd = math.cos(angle), degrees % 2
    if degrees == 1:
        return 2 * angle / math.pi
    term = cosine if odd else 1.0
    total = term
    for factor in range(2 if odd else 1, degrees - 2, 2):
        term *= cosine * cosine * factor / (factor + 1)
        total += term
    area = math.sin(angle) * total
    return 2 / math.pi * (angle + area) if odd else area


def _bootstrap(
    value: float,
    of: Callable[[Sequence[NDArray[np.intp]]], float],
    strata: Sequence[Scores],
    seed: int,
    resamples: int,
    confidence: float,
) -> Estimate:
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie in (0, 1), not {confidence}")
    generator = np.random.default_rng(seed)
    drawn = [
        of([generator.integers(len(values), size=len(values)) for values in strata])
        for _ in range(resamples)
    ]
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    count = sum(map(len, strata))
    return Estimate(float(value), float(low), float(high), count, confidence)


def _chance_to_beat(ours: Scores, theirs: Scores) -> float:
    gaps = ours[:, None] - theirs[None, :]  # (n, m)
    return float(np.mean((gaps > 0) + 0.5 * (gaps == 0)))


def _difference(treated: ArrayLike, control: ArrayLike) -> Scores:
    ours, theirs = _checked(treated), _checked(control)
    if len(ours) != len(theirs):
        raise ValueError(f"paired arms differ in length: {len(ours)} and {len(theirs)} runs")
    return ours - theirs


def _checked(scores: ArrayLike) -> Scores:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"scores must be a non-empty list of numbers, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"scores must be finite, got {values[~np.isfinite(values)][0]}")
    return values


def _checked_strata(strata: Sequence[ArrayLike]) -> list[Scores]:
    if len(strata) == 0:
        raise ValueError("there are no strata")
    return [_checked(values) for values in strata]


def _checked_pairs(
    treated: Sequence[ArrayLike], control: Sequence[ArrayLike]
) -> tuple[list[Scores], list[Scores]]:
    ours, theirs = _checked_strata(treated), _checked_strata(control)
    lengths, others = [len(values) for values in ours], [len(values) for values in theirs]
    if lengths != others:
        raise ValueError(f"paired arms differ in runs per stratum: {lengths} and {others}")
    return ours, theirs
