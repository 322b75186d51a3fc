"""Statistics over runs: against SciPy, against their definitions, and for their coverage."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.study import statistics as stats

SCORES = st.lists(st.floats(-100, 100), min_size=2, max_size=30)
QUICK: dict[str, Any] = {"resamples": 60}


@given(SCORES)
def test_the_interquartile_mean_is_scipy_s_trimmed_mean(scores: list[float]) -> None:
    expected = scipy.stats.trim_mean(scores, 0.25)
    assert stats.interquartile_mean(scores) == pytest.approx(expected, abs=1e-9)


@given(SCORES, st.floats(-10, 10), st.floats(0.1, 10))
def test_the_interquartile_mean_moves_and_scales_with_the_scores(
    scores: list[float], shift: float, scale: float
) -> None:
    moved = [scale * score + shift for score in scores]
    expected = scale * stats.interquartile_mean(scores) + shift
    assert stats.interquartile_mean(moved) == pytest.approx(expected, abs=1e-6)


def test_the_interquartile_mean_ignores_an_outlier() -> None:
    assert stats.interquartile_mean([1, 2, 3, 1e9]) == 2.5


@given(st.integers(1, 300), st.floats(0.01, 0.999))
def test_student_s_quantile_is_scipy_s(degrees: int, confidence: float) -> None:
    expected = scipy.stats.t.ppf(0.5 + confidence / 2, degrees)
    assert stats.student_t_quantile(degrees, confidence) == pytest.approx(expected, rel=1e-6)


@given(SCORES, st.integers(0, 2**32 - 1))
def test_the_paired_t_interval_is_scipy_s(control: list[float], seed: int) -> None:
    treated = np.asarray(control) + np.random.default_rng(seed).normal(1, 2, len(control))
    estimate = stats.paired_difference(treated, control)
    expected = scipy.stats.ttest_rel(treated, control).confidence_interval()
    assert estimate.low == pytest.approx(expected.low, rel=1e-6, abs=1e-9)
    assert estimate.high == pytest.approx(expected.high, rel=1e-6, abs=1e-9)
    assert estimate.count == len(control)


@given(SCORES, st.floats(-5, 5))
@settings(max_examples=25, deadline=None)
def test_a_constant_gain_is_found_exactly_by_every_paired_method(
    control: list[float], gain: float
) -> None:
    treated = [score + gain for score in control]
    for estimate in (
        stats.paired_difference(treated, control),
        stats.paired_bootstrap([treated], [control], stats.mean, **QUICK),
    ):
        assert estimate.value == pytest.approx(gain, abs=1e-9)
        assert estimate.low == pytest.approx(gain, abs=1e-7)
        assert estimate.high == pytest.approx(gain, abs=1e-7)


@given(st.lists(SCORES, min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_an_arm_against_itself_shows_no_difference(strata: list[list[float]]) -> None:
    difference = stats.paired_bootstrap(strata, strata, **QUICK)
    assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)
    assert not difference.excludes(0.0)
    chance = stats.probability_of_improvement(strata, strata, **QUICK)
    assert chance.value == pytest.approx(0.5)
    assert chance.low == pytest.approx(0.5)


@given(SCORES, SCORES)
@settings(max_examples=25, deadline=None)
def test_the_chance_of_improvement_is_mann_whitney_s_and_its_mirror_is_the_rest(
    ours: list[float], theirs: list[float]
) -> None:
    count = min(len(ours), len(theirs))
    ours, theirs = ours[:count], theirs[:count]
    chance = stats.probability_of_improvement([ours], [theirs], **QUICK).value
    expected = scipy.stats.mannwhitneyu(ours, theirs).statistic / count**2
    assert chance == pytest.approx(expected)
    mirrored = stats.probability_of_improvement([theirs], [ours], **QUICK).value
    assert chance + mirrored == pytest.approx(1.0)


@given(st.lists(SCORES, min_size=1, max_size=4), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_the_same_scores_and_seed_give_the_same_interval_around_the_data(
    strata: list[list[float]], seed: int
) -> None:
    first = stats.bootstrap_interval(strata, seed=seed, **QUICK)
    assert first == stats.bootstrap_interval(strata, seed=seed, **QUICK)
    pooled = [score for stratum in strata for score in stratum]
    assert first.low <= first.high
    assert min(pooled) - 1e-9 <= first.low
    assert first.high <= max(pooled) + 1e-9
    assert first.count == len(pooled)


def test_strata_are_resampled_each_within_itself() -> None:
    apart = stats.bootstrap_interval([[0.0, 0.0, 0.0], [100.0, 100.0, 100.0]], stats.mean)
    pooled = stats.bootstrap_interval([[0.0, 0.0, 0.0, 100.0, 100.0, 100.0]], stats.mean)
    assert (apart.low, apart.high) == (50.0, 50.0)
    assert pooled.high - pooled.low > 20


def test_pairing_removes_what_the_seeds_have_in_common() -> None:
    generator = np.random.default_rng(0)
    seeds = generator.normal(0, 10, 20)
    control = seeds + generator.normal(0, 0.1, 20)
    treated = seeds + 1.0 + generator.normal(0, 0.1, 20)
    paired = stats.paired_bootstrap([treated], [control], stats.mean)
    shuffled = stats.paired_bootstrap([treated], [control[::-1]], stats.mean)
    assert paired.excludes(0.0)
    assert not shuffled.excludes(0.0)


@pytest.mark.parametrize(
    "interval",
    [
        stats.paired_difference,
        lambda ours, theirs: stats.paired_bootstrap([ours], [theirs], stats.mean, resamples=200),
    ],
)
def test_about_one_interval_in_twenty_misses_the_truth(
    interval: Callable[[Any, Any], stats.Estimate],
) -> None:
    generator = np.random.default_rng(1)
    misses = 0
    for _ in range(300):
        control = generator.normal(0, 1, 20)
        treated = control + generator.normal(0.5, 1, 20)
        misses += interval(treated, control).excludes(0.5)
    assert 3 <= misses <= 40


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.interquartile_mean([]), "non-empty"),
        (lambda: stats.interquartile_mean([1.0, math.nan]), "finite, got nan"),
        (lambda: stats.paired_difference([1, 2], [1]), "2 and 1 runs"),
        (lambda: stats.paired_difference([1], [1]), "at least two"),
        (lambda: stats.bootstrap_interval([]), "no strata"),
        (lambda: stats.bootstrap_interval([[1.0], []]), "non-empty"),
        (lambda: stats.bootstrap_interval([[1.0]], resamples=0), "resamples"),
        (lambda: stats.bootstrap_interval([[1.0]], confidence=1.0), r"\(0, 1\)"),
        (lambda: stats.paired_bootstrap([[1, 2]], [[1]]), r"\[2\] and \[1\]"),
        (lambda: stats.student_t_quantile(0, 0.95), "at least 1"),
        (lambda: stats.student_t_quantile(5, 1.0), r"\(0, 1\)"),
    ],
)
def test_impossible_questions_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
