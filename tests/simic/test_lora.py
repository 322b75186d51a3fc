"""Adapters change nothing until they have learned, leave the base as it is, and can be merged."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from esper_async.simic.lora import adapter_state, attach, load_adapters, merge
from esper_async.tamiyo.network import GraphBatch, PolicyNetwork
from esper_async.tamiyo.policies.graph import GraphPolicy
from tests.tamiyo.graph_views import view


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 3))


def learn(net: nn.Module, parameters: list[nn.Parameter]) -> None:
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.ones(2, 6)).square().sum().backward()
        optimizer.step()


def test_a_network_begins_as_it_was_and_only_its_adapters_learn():
    net, given = network(), torch.randn(5, 6)
    before = net(given)
    weights = {name: each.detach().clone() for name, each in net.named_parameters()}
    trained = attach(net, rank=4)
    assert torch.equal(net(given), before)
    assert sum(each.numel() for each in trained) == 4 * (6 + 40) + 3 * (40 + 3)
    learn(net, trained)
    assert not torch.allclose(net(given), before)
    base = {
        name.replace("parametrizations.weight.original", "weight"): each
        for name, each in net.named_parameters()
        if not name.endswith((".a", ".b"))
    }
    assert set(base) == set(weights)
    assert all(torch.equal(base[name], weights[name]) for name in weights)


def test_what_was_merged_gives_the_same_and_has_the_names_it_had():
    net, given = network(), torch.randn(5, 6)
    names = set(net.state_dict())
    learn(net, attach(net, rank=4))
    learned = net(given)
    merge(net)
    assert torch.allclose(net(given), learned, atol=1e-6)
    assert set(net.state_dict()) == names


def test_adapters_shipped_alone_make_the_same_of_the_same_base():
    net, given = network(), torch.randn(5, 6)
    learn(net, attach(net, rank=4))
    other = network()
    load_adapters(other, adapter_state(net))
    assert torch.equal(other(given), net(given))


def widened(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "0.b": torch.zeros(41, 4)}


def lacking(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: each for name, each in state.items() if name != "2.a"}


@pytest.mark.parametrize(("broken", "words"), [(widened, "0 does not fit"), (lacking, "2.a")])
def test_adapters_of_another_network_are_refused_and_change_nothing(
    broken: Callable[[dict[str, Tensor]], dict[str, Tensor]], words: str
):
    net = network()
    attach(net, rank=4)
    other = network()
    with pytest.raises(ValueError, match=words):
        load_adapters(other, broken(adapter_state(net)))
    assert list(other.state_dict()) == list(network().state_dict())


def test_what_cannot_be_learned_is_said():
    with pytest.raises(ValueError, match="rank 0"):
        attach(network(), rank=0)
    net = network()
    attach(net)
    with pytest.raises(ValueError, match="merge them first"):
        attach(net)


def test_the_policy_network_takes_adapters_everywhere_that_it_is_linear():
    torch.manual_seed(0)
    net = PolicyNetwork().eval()
    state = GraphPolicy(0, net, version="t").builder.state(view())
    before = net(GraphBatch.of([state]))
    trained = attach(net)
    output = net(GraphBatch.of([state]))
    assert torch.equal(output.pair, before.pair)
    (output.value.sum() + output.operation.sum() + output.pair.sum()).backward()
    reached = [each for each in trained if each.grad is not None and bool(each.grad.any())]
    assert len(reached) > len(trained) // 4
