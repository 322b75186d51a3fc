"""Imitation: likelihoods are those of the draw, a lesson repeats, and teaching teaches."""

import json

import torch

from esper_async.tamiyo.command import NoOp
from esper_async.tamiyo.graph.builder import GraphBuilder
from esper_async.tamiyo.imitation.likelihood import log_likelihood, taken
from esper_async.tamiyo.imitation.states import StateDraw
from esper_async.tamiyo.imitation.teach import Lesson, agreement, teach
from esper_async.tamiyo.network import GraphBatch, NetworkForm, PolicyNetwork
from esper_async.tamiyo.network.policy_file import load_policy
from esper_async.tamiyo.policies.graph import SHIPPED, GraphPolicy
from esper_async.tamiyo.policies.heuristic import HeuristicPolicy
from tests.tamiyo.graph_views import drawn_views, view

SMALL = NetworkForm(hidden=16, heads=2, layers=1)


def test_the_same_lesson_gives_the_same_weights() -> None:
    lesson = Lesson(steps=2, batch=3, form=SMALL)
    one, other = teach(lesson), teach(lesson)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    assert not one.training


def test_what_ships_was_made_by_the_present_lesson_and_does_as_the_heuristic() -> None:
    network, header = load_policy(SHIPPED)
    assert header.lineage["lesson"] == json.loads(json.dumps(Lesson().to_json()))
    assert agreement(network, drawn_views(40, seed=77, sites=(1, 24))).same >= 0.9


def test_what_ships_waits_while_a_net_memorises() -> None:
    network, _ = load_policy(SHIPPED)
    policy = GraphPolicy(0, network, version="shipped", greedy=True)
    views = [each for each in drawn_views(120, seed=78) if HeuristicPolicy.memorises(each)]
    assert len(views) > 8
    waits = [isinstance(policy.decide(each).command, NoOp) for each in views]
    assert sum(waits) / len(waits) >= 0.9


def test_teaching_leaves_the_global_random_state() -> None:
    before = torch.get_rng_state()
    teach(Lesson(steps=1, batch=2, form=SMALL))
    assert torch.equal(before, torch.get_rng_state())


def test_a_network_that_was_taught_is_more_likely_to_do_as_the_teacher() -> None:
    views = drawn_views(16, seed=50, sites=(1, 8))
    states = [GraphBuilder().state(each) for each in views]
    actions = [
        taken(HeuristicPolicy(n).decide(each).command, state)
        for n, (each, state) in enumerate(zip(views, states, strict=True))
    ]

    def likelihood(network: PolicyNetwork) -> float:
        with torch.no_grad():
            told = [
                log_likelihood(network(GraphBatch.of([state])), [state], [action])
                for state, action in zip(states, actions, strict=True)
            ]
        return float(torch.cat(told).mean())

    torch.manual_seed(0)
    untaught = likelihood(PolicyNetwork(SMALL).eval())
    assert likelihood(teach(Lesson(steps=25, batch=6, form=SMALL))) > untaught


def test_agreement_counts_only_states_where_the_teacher_acts() -> None:
    torch.manual_seed(0)
    network = PolicyNetwork(SMALL).eval()
    assert agreement(network, [view(2), view(14)]).states == 1
    assert agreement(network, [view(2)]).states == 0


def test_the_same_seed_draws_the_same_states() -> None:
    one, other = StateDraw(3), StateDraw(3)
    assert [one.view() for _ in range(5)] == [other.view() for _ in range(5)]
    assert StateDraw(4).view() != StateDraw(3).view()
