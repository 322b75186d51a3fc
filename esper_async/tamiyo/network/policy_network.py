"""The network of the graph policy, from a graph's tensors to the scores of its heads."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from esper_async.tamiyo.graph.builder import GraphState
from esper_async.tamiyo.graph.features import NODE_TYPES, TABLES, NodeType
from esper_async.tamiyo.graph.structure import ORDER, Sizes
from esper_async.tamiyo.network.heads import HeadWeights, PolicyHeads, PolicyOutput
from esper_async.tamiyo.network.transformer import (
    Affine,
    GraphTransformer,
    TrunkWeights,
    linear,
)

_MOST_FEATURES, _MOST_LAYERS = 1_024, 16
"""A file that asks for more asks for the machine's memory."""


@dataclass(frozen=True, slots=True)
class NetworkForm:
    """The size of a policy's network."""

    hidden: int = 48
    heads: int = 3
    layers: int = 4
    dropout: float = 0.1

    def __post_init__(self) -> None:
        counts = (self.hidden, self.heads, self.layers)
        whole = all(isinstance(each, int) and 1 <= each <= _MOST_FEATURES for each in counts)
        if not whole or self.layers > _MOST_LAYERS or self.hidden % self.heads:
            raise ValueError(
                f"a network has up to {_MOST_FEATURES} features, the same share of them for each "
                f"head, and up to {_MOST_LAYERS} layers, not {self}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class GraphBatch:
    """Graphs of the same padded sizes, stacked.

    `features` by type (G, n, width), `pairs` (G, S, B, P), `relations` (G, N, N), `present` (G, N).
    """

    sizes: Sizes
    features: Mapping[NodeType, Tensor]
    pairs: Tensor
    relations: Tensor
    present: Tensor

    @staticmethod
    def of(states: Sequence[GraphState]) -> "GraphBatch":
        """Stack graphs.

        Raises:
            ValueError: they are not of the same padded sizes.
        """
        sizes = states[0].structure.sizes
        if len(states) == 1:
            return GraphBatch._alone(states[0])
        if any(state.structure.sizes != sizes for state in states):
            found = sorted({str(state.structure.sizes) for state in states})
            raise ValueError(f"graphs of different sizes cannot be stacked: {', '.join(found)}")
        return GraphBatch(
            sizes=sizes,
            features={
                node_type: torch.stack([state.features[node_type] for state in states])
                for node_type in NODE_TYPES
            },
            pairs=torch.stack([state.pairs for state in states]),
            relations=torch.stack([state.structure.relations for state in states]),
            present=torch.stack([state.structure.present for state in states]),
        )

    @staticmethod
    def _alone(state: GraphState) -> "GraphBatch":
        """Return a batch of one graph, whose tensors it shares."""
        structure = state.structure
        features = {name: state.features[name].unsqueeze(0) for name in NODE_TYPES}
        relations, present = structure.relations.unsqueeze(0), structure.present.unsqueeze(0)
        return GraphBatch(structure.sizes, features, state.pairs.unsqueeze(0), relations, present)


class PolicyNetwork(nn.Module):
    """Encoders by node type, the trunk, and the heads.

    In evaluation mode the same graph gives the same scores; dropout works in training mode alone.
    """

    def __init__(self, form: NetworkForm | None = None) -> None:
        super().__init__()
        self.form = form or NetworkForm()
        hidden = self.form.hidden
        self.encoders = nn.ModuleDict(
            {node_type: nn.Linear(TABLES[node_type].width, hidden) for node_type in NODE_TYPES}
        )
        self.trunk = GraphTransformer(hidden, self.form.heads, self.form.layers, self.form.dropout)
        self.heads = PolicyHeads(hidden)

    def weights(self) -> "NetworkWeights":
        """Return the weights as they are now; they are shared, not copied."""
        encoders: Any = self.encoders
        return NetworkWeights(
            tuple((name, Affine.of(encoders[name])) for name in ORDER),
            self.trunk.weights(),
            self.heads.weights(),
        )

    def forward(
        self,
        batch: GraphBatch,
        biases: Tensor | None = None,
        weights: "NetworkWeights | None" = None,
    ) -> PolicyOutput:
        """Return the scores of a batch.

        No module is called, only its `forward`: what is hooked into all calls of a process, as a
        count of the host's operations is, sees nothing of a policy that is asked beside it.

        Args:
            batch: the graphs.
            biases: those of its structure, where known.
            weights: those of `weights`, where kept.
        """
        if biases is None:
            biases = self.trunk.biases(batch.relations, batch.present)
        if weights is None:
            weights = self.weights()
        sizes, dtype = batch.sizes, biases.dtype
        encoded = [linear(batch.features[name].to(dtype), own) for name, own in weights.encoders]
        nodes = self.trunk.forward(torch.cat(encoded, dim=1), biases, weights.trunk, sizes.read)
        counts = (1, sizes.sites, sizes.seeds, sizes.blueprints)
        run, layers, seeds, blueprints = nodes.split_with_sizes(counts, dim=1)
        pairs = batch.pairs.to(dtype)
        return self.heads.forward(run[:, 0], layers, seeds, blueprints, pairs, weights.heads)


class NetworkWeights(NamedTuple):
    """The weights of a `PolicyNetwork`, the encoders' in the order of the nodes."""

    encoders: tuple[tuple[NodeType, Affine], ...]
    trunk: TrunkWeights
    heads: HeadWeights
