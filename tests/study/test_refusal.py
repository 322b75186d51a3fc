"""The benchmark of refusal: what entitles it to call a kernel helpful."""

import math

import pytest

from esper_async.study.bench.benchmark import Verdict
from esper_async.study.bench.cases.null_pairs import Trials, pooled
from esper_async.study.bench.cases.refusal import HELPFUL, Ending, Plan, _helpful_rows

NULLS = Trials(ended=2, accepted=0, benefits=[-0.01, 0.01], half_widths=[0.01, 0.01])


def endings(*benefits: float | None) -> dict[Plan, Ending]:
    found = {}
    for seed, benefit in enumerate(benefits):
        found[Plan(None, seed)] = Ending(False, False, 1.0, None)
        found[Plan(HELPFUL, seed)] = Ending(benefit is not None, True, 0.5, benefit)
    return found


@pytest.mark.parametrize(
    ("benefits", "helps"),
    [
        ([0.5, 0.4, 0.6], Verdict.PASS),
        ([0.01, 0.02, 0.01], Verdict.MISS),
        ([9.0, 0.0, 0.0], Verdict.MISS),
        ([0.5, None, 0.4], Verdict.PASS),
        ([None, 0.5], Verdict.MISS),
        ([None, None], Verdict.MISS),
    ],
)
def test_a_kernel_helps_when_its_mean_benefit_on_other_seeds_is_beyond_the_null_spread(
    benefits: list[float | None], helps: Verdict
) -> None:
    row, _ = _helpful_rows(endings(*benefits), NULLS)
    assert row.verdict is helps


def test_without_a_null_spread_nothing_is_known_to_help() -> None:
    row, _ = _helpful_rows(endings(0.5, 0.5), Trials())
    assert row.verdict is Verdict.MISS


def test_the_trials_of_many_runs_are_those_of_one() -> None:
    both = pooled([NULLS, Trials(ended=1, accepted=1, benefits=[0.3], half_widths=[0.1])])
    assert (both.ended, both.accepted, both.benefits) == (3, 1, [-0.01, 0.01, 0.3])
    assert math.isnan(Trials(benefits=[0.1]).spread)
