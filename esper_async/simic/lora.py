"""Low-rank adapters: a policy learns in few numbers while its own weights stay as they are.

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1: W stands, and
what is trained is B A with B (out, r) and A (r, in), scaled by α / r. B begins at 0, so that the
network begins as it was. Adapters are torch's parametrisations: no module is replaced.
"""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

RANK = 16
_SHARE = 1.0
"""α / r."""


class Adapter(nn.Module):
    """W + α/r B A, of a weight (out, in)."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        out, width = weight.shape
        self.a = nn.Parameter(torch.empty(rank, width))
        self.b = nn.Parameter(torch.zeros(out, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))  # as the paper's code begins

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with what was learned."""
        return weight + _SHARE * (self.b @ self.a)


def attach(network: nn.Module, *, rank: int = RANK) -> list[nn.Parameter]:
    """Give every linear layer an adapter, and freeze all else; return what is trained now.

    `rank` is the most; the adapter of a small layer has no more than its weight has room for.

    Raises:
        ValueError: the network has adapters already, or the rank is below 1.
    """
    if rank < 1:
        raise ValueError(f"an adapter of rank {rank} learns nothing")
    layers = [each for each in network.modules() if isinstance(each, nn.Linear)]
    if any(parametrize.is_parametrized(layer, "weight") for layer in layers):
        raise ValueError("the network has adapters already: merge them first")
    network.requires_grad_(False)
    trained: list[nn.Parameter] = []
    for layer in layers:
        adapter = Adapter(layer.weight, min(rank, *layer.weight.shape))
        parametrize.register_parametrization(layer, "weight", adapter)
        trained += [adapter.a, adapter.b]
    return trained


def merge(network: nn.Module) -> None:
    """Write what adapters have learned into the weights, and take the adapters away."""
    for layer, _ in _adapted(network):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def adapter_state(network: nn.Module) -> dict[str, Tensor]:
    """Return what the adapters have learned, to be shipped alone; by layer, `.a` and `.b`."""
    return {
        f"{name}.{part}": getattr(adapter, part).detach().clone()
        for name, adapter in _named(network)
        for part in ("a", "b")
    }


def load_adapters(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Take over what `adapter_state` returned, into a network without adapters.

    Raises:
        ValueError: it is of another network; nothing has changed then.
    """
    linear = {name: each for name, each in network.named_modules() if isinstance(each, nn.Linear)}
    expected = {f"{name}.{part}" for name in linear for part in ("a", "b")}
    if set(state) != expected:
        other = sorted(set(state) ^ expected)
        raise ValueError(f"the adapters are of another network: {', '.join(other[:3])}")
    for name, layer in linear.items():
        a, b = state[f"{name}.a"], state[f"{name}.b"]
        if (b.shape[0], a.shape[1]) != layer.weight.shape or a.shape[0] != b.shape[1]:
            raise ValueError(f"the adapter of {name} does not fit a weight {layer.weight.shape}")
    ranks = {name: len(state[f"{name}.a"]) for name in linear}
    attach(network, rank=max(ranks.values()))
    for name, adapter in _named(network):
        adapter.a.data = state[f"{name}.a"].clone()
        adapter.b.data = state[f"{name}.b"].clone()


def _named(network: nn.Module) -> Iterator[tuple[str, Adapter]]:
    names = {module: name for name, module in network.named_modules()}
    for layer, adapter in _adapted(network):
        yield names[layer], adapter


def _adapted(network: nn.Module) -> list[tuple[nn.Module, Adapter]]:
    """Return the layers with adapters; a list, since merging changes what is walked over."""
    return [
        (layer, adapter)
        for layer in network.modules()
        if isinstance(layer, nn.Linear) and parametrize.is_parametrized(layer, "weight")
        for adapter in layer.get_submodule("parametrizations.weight").children()
        if isinstance(adapter, Adapter)
    ]
