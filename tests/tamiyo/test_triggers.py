"""What brings on a tournament of the heuristic, where a run declares triggers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from esper_async.tamiyo.command import Decision, Germinate, NoOp
from esper_async.tamiyo.policies import make_policy, sees_graph
from esper_async.tamiyo.policies.heuristic import HeuristicPolicy
from esper_async.tamiyo.policies.triggers import PLATEAU_BOUNDARIES, TRIGGERS, Trigger
from esper_async.tamiyo.view import View
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.run_file import parse_run
from tests.tamiyo.test_policies import view

BOUNDARY = 14
FALLING = [10.0 * 0.8**boundary for boundary in range(BOUNDARY)]
STEEP, FLAT = {"first": 0.4, "second": 0.3}, {"first": 0.04, "second": 0.03}
STALLED = FALLING[:-PLATEAU_BOUNDARIES] + [5.0] * PLATEAU_BOUNDARIES
FIRES: dict[Trigger, dict[str, Any]] = {
    "gap": {"training_losses": FALLING},
    "plateau": {
        "validation_losses": STALLED,
        "training_losses": [0.7 * loss for loss in STALLED],
    },
    "gradient": {"gradient_rms": FLAT},
}


def seen(**changes: Any) -> View:
    """Return a view in which no trigger fires, but for what is changed."""
    calm: dict[str, Any] = {
        "validation_losses": FALLING,
        "training_losses": [0.7 * loss for loss in FALLING],
        "gradient_rms": STEEP,
    }
    return replace(view(BOUNDARY), **(calm | changes))


def second_decision(policy: Any, changes: dict[str, Any]) -> Decision:
    """Return what a policy decides after its first tournament, on a view with changes."""
    assert isinstance(policy.decide(seen()).command, Germinate), "the first one waits for nothing"
    decided: Decision = policy.decide(seen(**changes))
    return decided


def check_that_it_fires(trigger: Trigger) -> None:
    decision = second_decision(HeuristicPolicy(0, triggers=(trigger,)), FIRES[trigger])
    assert isinstance(decision.command, Germinate)
    assert f"; {trigger}: " in decision.reason


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_a_trigger_brings_on_another_tournament_and_is_named(trigger: Trigger) -> None:
    check_that_it_fires(trigger)


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_a_trigger_that_never_fires_would_be_noticed(
    trigger: Trigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "esper_async.tamiyo.policies.triggers._RULES", {trigger: lambda view, largest: None}
    )
    with pytest.raises(AssertionError):
        check_that_it_fires(trigger)


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_without_its_reason_a_trigger_waits(trigger: Trigger) -> None:
    others: dict[str, Any] = {}
    for each, changes in FIRES.items():
        if each != trigger:
            others |= changes
    decision = second_decision(HeuristicPolicy(0, triggers=(trigger,)), others)
    assert isinstance(decision.command, NoOp)
    assert decision.reason == f"no trigger: {trigger}"


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_what_was_not_measured_brings_nothing_on(trigger: Trigger) -> None:
    nothing: dict[str, Any] = {
        "validation_losses": [], "training_losses": [], "gradient_rms": {},
    }  # fmt: skip
    policy = HeuristicPolicy(0, triggers=(trigger,))
    assert isinstance(second_decision(policy, nothing).command, NoOp)


def test_any_one_of_several_is_enough() -> None:
    for changes in FIRES.values():
        policy = HeuristicPolicy(0, triggers=TRIGGERS)
        assert isinstance(second_decision(policy, changes).command, Germinate)
    policy = HeuristicPolicy(0, triggers=TRIGGERS)
    assert isinstance(second_decision(policy, {}).command, NoOp)


def test_without_triggers_a_tournament_follows_the_other() -> None:
    policy = HeuristicPolicy(0)
    assert isinstance(second_decision(policy, {}).command, Germinate)
    assert policy.version == "3"
    assert not sees_graph(policy)


def test_a_saved_policy_remembers_that_it_has_begun_and_how_large_gradients_were() -> None:
    one, other = (HeuristicPolicy(seed, triggers=("gradient",)) for seed in (0, 1))
    one.decide(seen())
    other.load_state_dict(one.state_dict())
    assert isinstance(other.decide(seen()).command, NoOp)
    assert other.decide(seen(gradient_rms=FLAT)) == one.decide(seen(gradient_rms=FLAT))


def test_the_gradients_of_the_host_are_shown_to_a_policy_that_waits_for_them() -> None:
    assert sees_graph(make_policy("heuristic", 0, triggers=("gradient",)))
    assert not sees_graph(make_policy("heuristic", 0, triggers=("plateau", "gap")))


def test_a_run_declares_its_triggers() -> None:
    asked = parse_run({
        "run": {"task": "esper_async.tasks.mnist1d:make_task"},
        "growth": {"triggers": ["plateau", "gap"]},
    })  # fmt: skip
    triggers: Sequence[str] = asked.growth.triggers
    assert triggers == ("plateau", "gap")
    made = RunOptions(epochs=1, triggers=asked.growth.triggers).make_policy()
    assert made.version == "3+plateau+gap"


def test_triggers_are_the_heuristics_alone() -> None:
    with pytest.raises(ValueError, match="triggers are for the policy 'heuristic', and 'random'"):
        RunOptions(epochs=1, policy="random", triggers=("gap",))
    unknown: Any = ("platau",)
    with pytest.raises(ValueError, match="unknown trigger 'platau'; known: plateau, gradient, gap"):
        RunOptions(epochs=1, triggers=unknown)
    with pytest.raises(ValueError, match=r"growth\.triggers"):
        parse_run({
            "run": {"task": "esper_async.tasks.mnist1d:make_task"},
            "growth": {"policy": "random", "triggers": ["gap"]},
        })  # fmt: skip
