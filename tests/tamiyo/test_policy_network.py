"""The network: any number of nodes, sound gradients in every head, the same scores each time."""

from dataclasses import fields

import pytest
import torch

from esper_async.kasmina.stage import Stage
from esper_async.tamiyo.graph.builder import GraphBuilder, GraphState
from esper_async.tamiyo.graph.structure import SEED_STEP
from esper_async.tamiyo.network import GraphBatch, PolicyNetwork
from esper_async.tamiyo.network.transformer import KeptBiases
from tests.tamiyo.graph_views import drawn_views, seed, view


def states() -> list[GraphState]:
    seeds = [seed("s1", Stage.TRAINING), seed("s2", Stage.BLENDING, "second")]
    return [GraphBuilder().state(view(boundary, seeds=seeds)) for boundary in (5, 20)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_head_gets_finite_gradients_that_are_not_zero(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = PolicyNetwork().to(dtype).train()
    output = network(GraphBatch.of(states()))
    for head in fields(output):
        network.zero_grad(set_to_none=True)
        getattr(output, head.name).square().mean().backward(retain_graph=True)
        found = [p.grad for p in network.parameters() if p.grad is not None]
        assert found
        assert all(torch.isfinite(gradient).all() for gradient in found)
        reached = network.encoders["run"].weight.grad
        assert reached is not None
        assert reached.abs().max() > 0


def test_evaluation_is_deterministic_and_training_is_not() -> None:
    torch.manual_seed(0)
    network = PolicyNetwork()
    batch = GraphBatch.of(states())
    with torch.no_grad():
        network.eval()
        assert torch.equal(network(batch).pair, network(batch).pair)
        network.train()
        assert not torch.equal(network(batch).pair, network(batch).pair)


def test_a_batch_gives_what_each_graph_gives_alone() -> None:
    torch.manual_seed(0)
    network = PolicyNetwork().eval()
    both = states()
    with torch.no_grad():
        together = network(GraphBatch.of(both))
        for place, state in enumerate(both):
            alone = network(GraphBatch.of([state]))
            for head in fields(alone):
                one, other = getattr(alone, head.name)[0], getattr(together, head.name)[place]
                assert torch.allclose(one, other, atol=1e-5)


def test_what_is_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    network = PolicyNetwork().eval()
    state = states()[0]
    sizes = state.structure.sizes
    with torch.no_grad():
        before = network(GraphBatch.of([state]))
        state.features["seed"][2:] = 1e3
        state.features["blueprint"][3:] = 1e3
        after = network(GraphBatch.of([state]))
    assert torch.equal(before.operation, after.operation)
    assert torch.equal(before.pair[:, :3, :3], after.pair[:, :3, :3])
    assert sizes.seeds == SEED_STEP


def test_any_number_of_sites_and_blueprints_can_be_scored() -> None:
    network = PolicyNetwork().eval()
    with torch.no_grad():
        for each in [*drawn_views(6, sites=(1, 3)), *drawn_views(3, sites=(40, 64))]:
            state = GraphBuilder().state(each)
            output = network(GraphBatch.of([state]))
            assert output.pair.shape[1:] == state.pair_legal.shape


def test_graphs_of_different_sizes_cannot_be_stacked() -> None:
    small, large = GraphBuilder().state(view()), GraphBuilder().state(view(sites=20))
    with pytest.raises(ValueError, match="different sizes"):
        GraphBatch.of([small, large])


def test_kept_biases_are_those_that_the_network_would_make() -> None:
    network, builder = PolicyNetwork(), GraphBuilder()
    kept = KeptBiases(network.trunk)
    planted = [seed("s1", Stage.TRAINING), seed("s2", Stage.BLENDING, "second")]
    for seeds in ([], planted, planted[1:], planted * 7, []):
        structure = builder.state(view(seeds=seeds)).structure
        fresh = network.trunk.biases(structure.relations[None], structure.present[None])
        assert torch.equal(kept.of(structure), fresh)


def test_kept_weights_give_what_the_network_gives() -> None:
    torch.manual_seed(0)
    network = PolicyNetwork().eval()
    batch = GraphBatch.of([states()[0]])
    with torch.no_grad():
        fresh, kept = network(batch), network(batch, weights=network.weights())
    for head in fields(fresh):
        assert torch.equal(getattr(fresh, head.name), getattr(kept, head.name)), head.name
