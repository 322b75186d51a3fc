"""Actions are drawn from what is legal, head by head, with the probability they were drawn with."""

import math
import random
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.kasmina.stage import Stage
from esper_async.tamiyo.graph.builder import GraphBuilder, GraphState
from esper_async.tamiyo.imitation.likelihood import log_likelihood, taken
from esper_async.tamiyo.imitation.states import StateDraw
from esper_async.tamiyo.network import GraphBatch, PolicyNetwork, PolicyOutput
from esper_async.tamiyo.network.choosing import (
    Action,
    Scored,
    UnsoundScoresError,
    choose,
    drawn_by,
    likeliest,
    most_likely,
)
from esper_async.tamiyo.policies.graph import command_of
from tests.tamiyo.graph_views import seed, view


def scores(state: GraphState, network_seed: int = 0) -> PolicyOutput:
    torch.manual_seed(network_seed)
    with torch.inference_mode():
        output: PolicyOutput = PolicyNetwork().eval()(GraphBatch.of([state]))
    return output


def drawn(state: GraphState, number: int, *, floor: float = 0.02) -> Action:
    uniform = random.Random(number).random
    return choose(Scored(state, scores(state), floor=floor), drawn_by(uniform))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_every_choice_was_legal_and_nothing_illegal_has_probability(draw: int, number: int) -> None:
    state = GraphBuilder().state(StateDraw(draw).view())
    action = drawn(state, number)
    for head in action.heads:
        assert head.legal[head.chosen]
        assert head.probabilities[~head.legal].max(initial=0.0) == 0.0
        assert head.probabilities.sum() == pytest.approx(1.0)
        floor = 0.02 / head.legal.sum()
        assert head.probabilities[head.legal].min() >= floor * (1 - 1e-9)
    planted = {(c.site, c.blueprint) for c in action.candidates}
    offered = {(p.site, p.blueprint): p for p in state.placements.values()}
    assert planted <= set(offered)
    assert len(planted) == len(action.candidates) <= state.most_candidates
    for candidate in action.candidates:
        fitting = offered[candidate.site, candidate.blueprint].blend
        assert candidate.blend in (fitting, "per_channel", "confidence_gated")


def test_an_empty_mask_yields_no_operation() -> None:
    state = GraphBuilder().state(view(planting=False))
    action = drawn(state, 1)
    assert action.operation == "NO_OP"
    assert action.log_probability == 0.0


def test_the_recorded_probability_is_that_of_the_whole_action() -> None:
    state = GraphBuilder().state(view(seeds=[seed("s1", Stage.BLENDING)]))
    for number in range(30):
        action = drawn(state, number, floor=0.0)
        place = taken(command_of(action, state), state)
        told = log_likelihood(scores(state), [state], [place])
        assert action.log_probability == pytest.approx(float(told[0]), rel=1e-3, abs=1e-3)


def test_turns_are_counted_from_the_site_that_has_had_fewest() -> None:
    """Whatever the scores of turns are: evenly spaced ones would not tell what they count from."""
    state = GraphBuilder().state(StateDraw(3).view(sites=(2, 3), situation="free"))
    uneven = replace(scores(state), turn=torch.tensor([[0.0, -3.0, 1.0, 0.5]]))
    for number in range(30):
        action = choose(Scored(state, uneven, floor=0.0), drawn_by(random.Random(number).random))
        place = taken(command_of(action, state), state)
        told = log_likelihood(uneven, [state], [place])
        assert action.log_probability == pytest.approx(float(told[0]), rel=1e-3, abs=1e-3)


def test_a_tournament_is_bounded_by_the_room_there_is() -> None:
    state = GraphBuilder().state(view(free=2))
    for number in range(40):
        assert len(drawn(state, number).candidates) <= 2


def test_what_is_drawn_follows_the_probabilities() -> None:
    pick = drawn_by(random.Random(0).random)
    chances = np.array([0.0, 0.7, 0.0, 0.3])
    counts = np.bincount([pick(chances) for _ in range(4000)], minlength=4)
    assert counts[0] == counts[2] == 0
    assert 0.66 < counts[1] / 4000 < 0.74


def test_the_likeliest_alternatives_are_told_in_order_with_their_probabilities() -> None:
    state = GraphBuilder().state(view(seeds=[seed("s1", Stage.TRAINING)]))
    told = likeliest(Scored(state, scores(state)), 5)
    chances = [entry[3] for entry in told]
    assert chances == sorted(chances, reverse=True)
    assert 0 < chances[-1] <= chances[0] <= 1
    assert len(told) == 5


def test_first_candidates_are_a_distribution_over_placements() -> None:
    state = GraphBuilder().state(view())
    chances = Scored(state, scores(state)).first_candidate()
    assert chances.sum() == pytest.approx(1.0)
    assert chances[~state.pair_legal.numpy()].max() == 0.0


def test_scores_that_are_not_finite_are_no_choice() -> None:
    state = GraphBuilder().state(view())
    output = scores(state)
    broken = replace(output, operation=torch.full_like(output.operation, math.nan))
    with pytest.raises(UnsoundScoresError, match="not finite"):
        choose(Scored(state, broken), most_likely)


def test_every_score_is_read_as_it_was_computed() -> None:
    state = GraphBuilder().state(view())
    output = scores(state)
    assert all(getattr(output, each.name).dtype == torch.float32 for each in fields(output))
