"""What is wrong with a policy is found whatever it is offered, and a sound one has no fault."""

import itertools

import numpy as np
import pytest

from esper_async.simic.doubly_robust import Chances
from esper_async.simic.soundness import faults_of
from esper_async.tamiyo.offer import PLACEMENT_WIDTH, Floats
from esper_async.tamiyo.policies.from_document import learned_of
from esper_async.tamiyo.policies.linear_belief import LinearBelief
from esper_async.tamiyo.policies.softmax_ensemble import SoftmaxEnsemble
from esper_async.tamiyo.shipped import shipped_document


def even(features: Floats) -> Floats:
    return np.full(len(features), 1.0 / len(features))


def test_the_policies_that_can_be_learned_are_sound() -> None:
    assert faults_of(LinearBelief.blank().probabilities) == []
    assert faults_of(learned_of(shipped_document()).probabilities) == []
    weights = np.random.default_rng(0).normal(0.0, 10.0, size=(4, PLACEMENT_WIDTH))
    assert faults_of(SoftmaxEnsemble(weights, np.zeros(PLACEMENT_WIDTH)).probabilities) == []


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (lambda features: even(features)[:-1], "shape"),
        (lambda features: even(features) * np.where(features[:, 4] < 0.5, 1.0, np.nan), "finite"),
        (lambda features: np.eye(len(features))[0], "no chance at all"),
        (lambda features: even(features) * 1.1, "add up to 1.1"),
    ],
)
def test_each_fault_is_named(broken: Chances, told: str) -> None:
    assert any(told in fault for fault in faults_of(broken))


def test_one_that_takes_too_long_to_decide_is_refused() -> None:
    for tick_s, faults in ((0.011, []), (0.013, ["a decision takes 13.0 ms, 12 are allowed"])):
        ticks = itertools.count(0.0, tick_s)
        assert faults_of(even, clock=lambda ticks=ticks: next(ticks)) == faults
