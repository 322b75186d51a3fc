"""What moved a decision is named by node and feature, the strongest first."""

import threading
from typing import Any, cast

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from esper_async.kasmina.stage import Stage
from esper_async.tamiyo.command import Command, NoOp
from esper_async.tamiyo.controller import Answered, Controller
from esper_async.tamiyo.graph.features import TABLES
from esper_async.tamiyo.network import PolicyNetwork
from esper_async.tamiyo.policies.graph import GraphPolicy
from tests.tamiyo.graph_views import seed, view


def policy(**settings: bool) -> GraphPolicy:
    torch.manual_seed(0)
    return GraphPolicy(0, PolicyNetwork(), version="test", **settings)


def test_the_strongest_features_are_named_with_their_nodes() -> None:
    deciding = policy()
    deciding.decide(view(seeds=[seed("s1", Stage.TRAINING)]))
    told = deciding.explain()
    effects = [abs(entry["effect"]) for entry in told]
    assert effects == sorted(effects, reverse=True)
    known = {feature.name for table in TABLES.values() for feature in table.features}
    assert {entry["feature"] for entry in told} <= known
    nodes = {"run run", "seed s1", "layer first", "blueprint BP002"}
    assert {entry["node"].split()[0] for entry in told} <= {n.split()[0] for n in nodes} | {
        "activation", "parameter",
    }  # fmt: skip
    assert len(told) == 5


def test_explaining_changes_no_weight_and_no_decision_to_come() -> None:
    one, other = policy(), policy()
    for boundary in (14, 15, 16):
        assert one.decide(view(boundary)) == other.decide(view(boundary))
        one.explain()
    assert all(parameter.grad is None for parameter in one.network.parameters())


def test_the_controller_explains_what_it_answers() -> None:
    controller, deciding = Controller(), policy()
    try:
        for boundary in range(4, 30):
            controller.ask(deciding, view(boundary), timeout_s=30.0)
    finally:
        assert controller.close(timeout_s=30.0)
    told = controller.take_explanations()
    assert told
    assert all(each.moved for each in told)
    assert [each.boundary for each in told] == sorted({each.boundary for each in told})
    assert controller.take_explanations() == []


class Slow(GraphPolicy):
    """Explains only once it may."""

    may = threading.Event()

    def explain(self) -> list[dict[str, Any]]:
        """Wait, then explain."""
        assert self.may.wait(30.0)
        return super().explain()


class Noting(GraphPolicy):
    """Notes that it is explaining."""

    begun = threading.Event()

    def explain(self) -> list[dict[str, Any]]:
        """Note it, then explain."""
        self.begun.set()
        return super().explain()


def test_an_explanation_takes_nothing_from_a_boundary_before_it_is_over() -> None:
    torch.manual_seed(0)
    controller, deciding = Controller(), Noting(0, PolicyNetwork(), version="test")
    try:
        boundary, command = 3, cast(Command, NoOp())
        while isinstance(command, NoOp):
            boundary += 1
            answer = controller.ask(deciding, view(boundary), timeout_s=30.0)
            assert isinstance(answer, Answered)
            command = answer.decision.command
        assert not deciding.begun.wait(0.05), "the boundary still carries its command out"
        controller.explain()
        assert deciding.begun.wait(30.0)
    finally:
        assert controller.close(timeout_s=30.0)
    assert [each.boundary for each in controller.take_explanations()] == [boundary]


def test_a_decision_does_not_wait_for_its_explanation_and_the_next_one_does() -> None:
    torch.manual_seed(0)
    controller, deciding = Controller(), Slow(0, PolicyNetwork(), version="test")
    try:
        boundary, command = 3, cast(Command, NoOp())
        while isinstance(command, NoOp):
            boundary += 1
            answer = controller.ask(deciding, view(boundary), timeout_s=30.0)
            assert isinstance(answer, Answered)
            command = answer.decision.command
        assert controller.take_explanations() == []
        deciding.may.set()
        controller.ask(deciding, view(boundary + 1), timeout_s=30.0)
        told = controller.take_explanations(boundary + 1)
        assert [each.boundary for each in told] == [boundary]
    finally:
        deciding.may.set()
        assert controller.close(timeout_s=30.0)


def test_a_count_of_all_calls_of_modules_sees_nothing_of_a_policy() -> None:
    deciding, called = policy(), []
    hook = register_module_forward_pre_hook(lambda module, _: called.append(type(module).__name__))
    try:
        deciding.decide(view(seeds=[seed("s1", Stage.TRAINING)]))
        assert deciding.explain()
    finally:
        hook.remove()
    assert called == []
