"""A dense graph transformer: attention over all nodes, biased by how each sees the other.

The bias is learned per layer, head and relation, as Graphormer's spatial encoding is (Ying et al.
2021, "Do Transformers Really Perform Bad for Graph Representation?", section 3.1.2). For a hundred
nodes on one thread dense attention is as fast as sparse message passing, and needs no library.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from esper_async.tamiyo.graph.relations import Relation
from esper_async.tamiyo.graph.structure import Structure

_EPSILON = 1e-5
"""Added to a variance; that of `nn.LayerNorm`."""


class Affine(NamedTuple):
    """The weights of a linear layer (out, in) and (out,), or of a norm (D,) and (D,)."""

    weight: Tensor
    bias: Tensor

    @staticmethod
    def of(layer: nn.Module) -> "Affine":
        """Return a layer's weights as they are now; they are shared, not copied."""
        return Affine(layer.weight, layer.bias)  # type: ignore[arg-type]  # of any such layer


class BlockWeights(NamedTuple):
    """The weights of a `Block`. To ask a module for each of them costs as much as some layers do,
    so who asks a network again and again keeps them.
    """

    attention_norm: Affine
    joint: Affine
    mix: Affine
    node_norm: Affine
    expand: Affine
    contract: Affine


class Block(nn.Module):
    """One pre-norm layer: biased attention, then a network of two layers at each node."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.scale = (hidden // heads) ** -0.5
        self.attention_norm = nn.LayerNorm(hidden)
        self.joint = nn.Linear(hidden, 3 * hidden)
        self.mix = nn.Linear(hidden, hidden)
        self.node_norm = nn.LayerNorm(hidden)
        self.expand = nn.Linear(hidden, 2 * hidden)
        self.contract = nn.Linear(2 * hidden, hidden)
        self.dropout = nn.Dropout(dropout)

    def weights(self) -> BlockWeights:
        """Return the weights as they are now."""
        return BlockWeights(*[Affine.of(getattr(self, name)) for name in BlockWeights._fields])

    def forward(self, nodes: Tensor, bias: Tensor, weights: BlockWeights, read: int) -> Tensor:
        """Return (G R, D), of each graph the first `read` nodes.

        Args:
            nodes: (G N, D), one graph after the other.
            bias: what is added to attention (G, H, N, N).
            weights: those of `weights`.
            read: R, how many nodes of a graph are worked out; all of them are seen.
        """
        graphs, heads, count, _ = bias.shape
        # (G, N, 3, H, D/H) -> 3 x (G H, N, D/H); a batch of one is not copied
        joint = linear(_normed(nodes, weights.attention_norm), weights.joint)
        apart = joint.view(graphs, count, 3, heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = apart.reshape(3, graphs * heads, count, -1).unbind()
        if read < count:
            query, bias = query[:, :read], bias[:, :, :read]
            nodes = nodes.view(graphs, count, -1)[:, :read].reshape(graphs * read, -1)
        # written out: for some hundred nodes torch's fused kernel takes twice as long on a CPU
        bias = bias.reshape(-1, read, count)
        scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=self.scale)  # (G H, R, N)
        seen = torch.bmm(torch.softmax(scores, dim=-1), value)
        seen = seen.view(graphs, heads, read, -1).transpose(1, 2).reshape(nodes.shape)
        nodes = self._dropped(linear(seen, weights.mix)).add_(nodes)
        inner = torch.relu_(linear(_normed(nodes, weights.node_norm), weights.expand))
        return self._dropped(linear(inner, weights.contract)).add_(nodes)

    def _dropped(self, nodes: Tensor) -> Tensor:
        return functional.dropout(nodes, self.dropout.p) if self.training else nodes


def linear(nodes: Tensor, layer: Affine) -> Tensor:
    """Apply a linear layer."""
    return functional.linear(nodes, layer.weight, layer.bias)


def _normed(nodes: Tensor, norm: Affine) -> Tensor:
    return torch.layer_norm(nodes, nodes.shape[-1:], norm.weight, norm.bias, _EPSILON)


class TrunkWeights(NamedTuple):
    """The weights of a `GraphTransformer`, but for the biases of its attention."""

    blocks: tuple[BlockWeights, ...]
    norm: Affine


class GraphTransformer(nn.Module):
    """Layers of `Block`, with a bias for each relation.

    Args:
        hidden: width of a node.
        heads: of attention; they divide `hidden`.
        layers: how many blocks.
        dropout: in training mode alone.
    """

    def __init__(self, hidden: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(hidden, heads, dropout) for _ in range(layers))
        self.relation_bias = nn.Parameter(0.02 * torch.randn(layers, heads, len(Relation)))
        self.norm = nn.LayerNorm(hidden)

    def biases(self, relations: Tensor, present: Tensor) -> Tensor:
        """Return (L, G, H, N, K) of how N nodes see K of them, for relations (G, N, K).

        Of the K nodes `present` (G, K) are no padding; the others are seen by nobody.
        """
        layers, heads, _ = self.relation_bias.shape
        # four times as fast as indexing with `relations`
        found = self.relation_bias.flatten(0, 1).index_select(1, relations.flatten().int())
        found = found.view(layers, heads, *relations.shape).transpose(1, 2)
        return found.masked_fill(~present[None, :, None, None, :], float("-inf"))

    def weights(self) -> TrunkWeights:
        """Return the weights as they are now."""
        blocks: Any = self.blocks
        return TrunkWeights(tuple(block.weights() for block in blocks), Affine.of(self.norm))

    def forward(self, nodes: Tensor, biases: Tensor, weights: TrunkWeights, read: int) -> Tensor:
        """Return (G, R, D), the first `read` nodes after all layers: the last has no other to tell.

        Args:
            nodes: (G, N, D).
            biases: (L, G, H, N, N), those of `biases`.
            weights: those of `weights`.
            read: R.
        """
        graphs, count, hidden = nodes.shape
        nodes = nodes.view(-1, hidden)
        counts = [count] * (len(weights.blocks) - 1) + [read]
        together = zip(self.blocks, biases.unbind(), weights.blocks, counts, strict=True)
        for block, bias, own, asking in together:
            nodes = block.forward(nodes, bias, own, asking)
        return _normed(nodes, weights.norm).view(graphs, read, hidden)


class KeptBiases:
    """The attention biases of one graph after the other; only what seeds change is made anew.

    They are those of `GraphTransformer.biases`, for as long as its weights stay what they are.
    """

    def __init__(self, trunk: GraphTransformer) -> None:
        self._trunk = trunk
        self._structure: Structure | None = None
        self._biases = torch.empty(0)
        bias = trunk.relation_bias.detach()
        self._shape = bias.shape[:2]
        # (L H, relations and one more), for nodes that nobody sees
        self._table = functional.pad(bias.flatten(0, 1), (0, 1), value=float("-inf"))

    @torch.inference_mode()
    def of(self, structure: Structure) -> Tensor:
        """Return (L, 1, H, N, N) of a structure; they are good until another one is asked for."""
        before, self._structure = self._structure, structure
        if before is structure:
            return self._biases
        if before is None or before.ground is not structure.ground:
            whole = structure.relations[None], structure.present[None]
            self._biases = self._trunk.biases(*whole)
            return self._biases
        start, count = structure.sizes.offset("seed"), structure.sizes.nodes
        most = max(len(before.planted), len(structure.planted))
        seeds = slice(start, start + most)
        relations = structure.relations.numpy()
        seen = np.where(structure.present.numpy(), relations[seeds], len(Relation))  # (seeds, N)
        seeing = relations[:, seeds].copy()  # (N, seeds)
        seeing[:, len(structure.planted) :] = len(Relation)
        places = torch.from_numpy(np.concatenate([seen.ravel(), seeing.ravel()]).astype(np.int32))
        rows, columns = self._table.index_select(1, places).chunk(2, dim=1)
        self._biases[:, 0, :, seeds] = rows.view(*self._shape, most, count)
        self._biases[:, 0, :, :, seeds] = columns.view(*self._shape, count, most)
        return self._biases
