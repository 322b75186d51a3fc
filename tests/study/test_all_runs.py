"""Many runs: over all cores or in this process, the same results in the order of the plans."""

import math
from unittest import mock

import pytest

from esper_async.study.bench.all_runs import run_all
from esper_async.study.bench.benchmark import Effort
from esper_async.study.bench.cases import growth
from esper_async.study.bench.cases.growth import ARMS, RATES, Plan
from esper_async.tolaria.training import LossError


@pytest.mark.parametrize("effort", Effort)
def test_results_come_in_the_order_of_the_plans_whatever_runs_them(effort: Effort) -> None:
    found = run_all([9.0, 1.0, 4.0], math.sqrt, effort)
    assert list(found.items()) == [(9.0, 3.0), (1.0, 1.0), (4.0, 2.0)]


def test_the_short_form_can_be_broken_in_this_process() -> None:
    broken = mock.Mock(return_value=0.0)
    assert run_all([1.0, 2.0], broken, Effort.SHORT) == {1.0: 0.0, 2.0: 0.0}
    assert broken.call_count == 2


def test_every_arm_chooses_its_rate_from_the_same_ones_and_the_longest_runs_come_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    best = {"static": 8e-2, "random": 4e-2, "heuristic": 1e-2}
    asked: list[Plan] = []

    def run_here(plans: list[Plan], _run: object, _effort: Effort) -> dict[Plan, float]:
        asked.extend(plans)
        return {plan: -abs(math.log(plan.rate / best[plan.arm])) for plan in plans}

    monkeypatch.setattr(growth, "run_all", run_here)
    assert growth._tuned() == {
        (arm, schedule): best[arm] for arm in ARMS for schedule in ("constant", "cosine")
    }
    for arm in ARMS:
        assert {plan.rate for plan in asked if plan.arm == arm} == set(RATES)
    assert [plan.arm for plan in asked] == sorted((plan.arm for plan in asked), key=ARMS.index)


def test_a_rate_at_which_training_diverges_scores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "run", mock.Mock(side_effect=LossError("nan")))
    assert growth.tuning_score(Plan("static", "constant", 0.16, 100, 1)) == 0.0
