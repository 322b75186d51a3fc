"""The bandit learns from what its own seeds brought, pessimistically, and says its odds."""

import json
from dataclasses import replace

import pytest

from esper_async.kasmina.quantity import Quantity
from esper_async.kasmina.stage import Stage
from esper_async.tamiyo.command import Germinate
from esper_async.tamiyo.policies.bandit import BanditPolicy, outcome
from esper_async.tamiyo.policies.linear_belief import EXPLORATION
from tests.tamiyo.graph_views import seed, view


def quantity(mean: float, *, estimated: bool = False) -> Quantity:
    return Quantity(mean, mean - 0.01, mean + 0.01, 64, "sample", estimated=estimated)


def chosen(policy: BanditPolicy, boundary: int = 14) -> tuple[str, str]:
    command = policy.decide(view(boundary)).command
    assert isinstance(command, Germinate)
    (candidate,) = command.candidates
    return candidate.site, candidate.blueprint


def test_what_harmed_is_not_planted_again_but_by_exploration() -> None:
    policy = BanditPolicy(0)
    for number in range(12):
        site, blueprint = chosen(policy)
        harmful = blueprint == "BP009"
        ended = replace(
            seed(f"s{number}", Stage.CULLED, site, blueprint),
            clean_contribution=quantity(-0.5 if harmful else 0.3),
        )
        policy.decide(replace(view(3), ended=[ended]))
    later = [chosen(policy)[1] for _ in range(60)]
    assert later.count("BP009") <= 60 * EXPLORATION


def test_the_probability_is_that_of_the_choice() -> None:
    policy = BanditPolicy(3)
    greedy = (1 - EXPLORATION) + EXPLORATION / 9
    for boundary in range(14, 40):
        told = policy.decide(view(boundary)).probability
        assert told in (pytest.approx(greedy), pytest.approx(EXPLORATION / 9))


def test_an_estimate_and_a_living_seed_are_no_outcome() -> None:
    judged = replace(seed("s1", Stage.PROBATIONARY), windows=1)
    assert outcome(replace(judged, benefit_vs_twin=quantity(0.2)), []) == 0.2
    assert outcome(replace(judged, benefit_vs_twin=quantity(0.2, estimated=True)), []) is None
    assert outcome(replace(judged, clean_contribution=quantity(0.2)), []) is None
    ended = replace(judged, clean_contribution=quantity(0.2))
    assert outcome(ended, [ended]) == 0.2


def test_a_saved_bandit_goes_on_as_it_would_have() -> None:
    one, other = BanditPolicy(1), BanditPolicy(2)
    site, blueprint = chosen(one)
    ended = replace(seed("s1", Stage.CULLED, site, blueprint), clean_contribution=quantity(0.1))
    one.decide(replace(view(3), ended=[ended]))
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert [chosen(one, b) for b in range(14, 30)] == [chosen(other, b) for b in range(14, 30)]
