"""What a learner reads back from a decision's record is what the network saw and drew."""

import math

import numpy as np
import pytest
import torch

from esper_async.kasmina.stage import Stage
from esper_async.leyline import DecisionRecord, EdgeSet
from esper_async.tamiyo.evidence import unpack, varints
from esper_async.tamiyo.graph.features import NODE_TYPES
from esper_async.tamiyo.network import GraphBatch, PolicyNetwork
from esper_async.tamiyo.network.recorded import (
    UnusableRecordError,
    recorded,
    stacked,
)
from esper_async.tamiyo.network.rescoring import rescored
from esper_async.tamiyo.policies.graph import GraphPolicy
from esper_async.tamiyo.view import View
from tests.tamiyo.graph_views import drawn_views, seed, view

VIEWS = drawn_views(60)


@pytest.fixture(scope="module")
def network() -> PolicyNetwork:
    """One that is far from what any policy begins as: every head must be read right."""
    torch.manual_seed(5)
    found = PolicyNetwork().eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return found


def record_of(policy: GraphPolicy, of: View) -> DecisionRecord:
    evidence = policy.decide(of).evidence
    assert evidence is not None
    return unpack(evidence)


def test_the_graph_is_the_one_that_the_network_saw(network: PolicyNetwork):
    policy = GraphPolicy(1, network, version="t")
    for each in VIEWS:
        told = recorded(record_of(policy, each)).graph
        seen = GraphBatch.of([policy.builder.state(each)])
        assert told.sizes == seen.sizes
        for name in NODE_TYPES:
            assert torch.equal(told.features[name], seen.features[name]), name
        assert torch.equal(told.pairs, seen.pairs)
        assert torch.equal(told.present, seen.present)
        assert torch.equal(told.relations, seen.relations)


def test_an_action_is_as_likely_when_asked_again_as_when_it_was_drawn(network: PolicyNetwork):
    policy = GraphPolicy(2, network, version="t")
    asked = set()
    for each in VIEWS:
        decision = policy.decide(each)
        assert decision.evidence is not None
        told = recorded(unpack(decision.evidence))
        again = rescored(network(told.graph), [told])
        assert told.log_probability == pytest.approx(math.log(decision.probability or 0), abs=1e-4)
        assert float(again.log_probabilities) == pytest.approx(told.log_probability, abs=1e-3)
        assert float(again.entropies) >= 0.0
        asked |= {head.kind for head in told.heads}
    assert asked >= {"operation", "site", "blueprint", "blend", "ramp", "candidates", "seed"}


def test_every_head_that_was_open_is_taught(network: PolicyNetwork):
    learner = PolicyNetwork().eval()
    policy = GraphPolicy(4, network, version="t")
    for each in VIEWS:
        told = recorded(record_of(policy, each))
        rescored(learner(told.graph), [told]).log_probabilities.sum().backward()
    taught = {name for name, each in learner.named_parameters() if each.grad is not None}
    for part in ("heads.run.weight", "heads.seed.weight", "heads.site.weight", "heads.pair"):
        assert part in taught
        gradient = learner.get_parameter(part).grad
        assert gradient is not None
        assert bool(gradient.isfinite().all())
        assert bool(gradient.any())


def test_graphs_of_a_batch_are_each_asked_for_themselves(network: PolicyNetwork):
    policy = GraphPolicy(5, network, version="t")
    views = [view(), view(seeds=[seed("s1", Stage.TRAINING)]), view(boundary=20)]
    told = [recorded(record_of(policy, each)) for each in views]
    beside = rescored(network(stacked([each.graph for each in told])), told).log_probabilities
    alone = [float(rescored(network(each.graph), [each]).log_probabilities) for each in told]
    assert beside.tolist() == pytest.approx(alone, abs=1e-4)


def test_records_that_teach_nothing_are_refused_with_the_reason(network: PolicyNetwork):
    with pytest.raises(UnusableRecordError, match="no graph policy"):
        recorded(DecisionRecord())
    record = record_of(GraphPolicy(6, network, version="t"), view())
    old = DecisionRecord.FromString(record.SerializeToString())
    next(nodes for nodes in old.graph.nodes if nodes.type == "layer").width -= 1
    with pytest.raises(UnusableRecordError, match="layer nodes have"):
        recorded(old)
    strange = DecisionRecord.FromString(record.SerializeToString())
    strange.heads[0].name = "tail"
    with pytest.raises(UnusableRecordError, match="tail"):
        recorded(strange)


def test_places_past_one_byte_are_told_as_they_are(network: PolicyNetwork) -> None:
    policy = GraphPolicy(0, network, version="test")
    decision = policy.decide(view(sites=140))
    assert decision.evidence is not None
    told = unpack(decision.evidence).graph
    sites, blueprints = policy.builder.state(view(sites=140)).pair_legal.numpy().nonzero()
    assert list(told.edges[0].targets) == sites.tolist()
    assert list(told.edges[0].sources) == blueprints.tolist()
    assert max(told.edges[0].targets) == 139


@pytest.mark.parametrize("number", [0, 1, 127, 128, 16_383, 16_384, 2**21, 2**32 - 1])
def test_a_number_of_any_size_is_packed_as_the_wire_has_it(number: int) -> None:
    values = [5, number, 300]
    packed = bytes((0x22, len(varints(np.array(values))))) + varints(np.array(values))
    assert list(EdgeSet.FromString(packed).sources) == values
