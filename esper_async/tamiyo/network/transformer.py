"""A dense graph transformer: attention over all nodes, biased by how each sees the other.

The bias is learned per layer, head and relation, as Graphormer's spatial encoding is (Ying et al.
2021, "Do Transformers Really Perform Bad for Graph Representation?", section 3.1.2). For a hundred
nodes on one thread dense attention is as fast as sparse message passing, and needs no library.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from esper_async.tamiyo.graph.relations import Relation
from esper_async.tamiyo.graph.structure import Structure


class Block(nn.Module):
    """One pre-norm layer: biased attention, then a network of two layers at each node."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (hidden // heads) ** -0.5
        self.attention_norm = nn.LayerNorm(hidden)
        self.joint = nn.Linear(hidden, 3 * hidden)
        self.mix = nn.Linear(hidden, hidden)
        self.node_norm = nn.LayerNorm(hidden)
        self.expand = nn.Linear(hidden, 2 * hidden)
        self.contract = nn.Linear(2 * hidden, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, nodes: Tensor, bias: Tensor) -> Tensor:
        """Return (G, N, D) from nodes (G, N, D) and what is added to attention (G, H, N, N)."""
        graphs, count, _ = nodes.shape
        # (G, N, 3, H, D/H) -> 3 x (G H, N, D/H); a batch of one is not copied
        joint = linear(_normed(nodes, self.attention_norm), self.joint)
        apart = joint.view(graphs, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = apart.reshape(3, graphs * self.heads, count, -1).unbind()
        # written out: for some hundred nodes torch's fused kernel takes twice as long on a CPU
        bias = bias.reshape(-1, count, count)
        scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=self.scale)  # (G H, N, N)
        seen = torch.bmm(torch.softmax(scores, dim=-1), value)
        seen = seen.view(graphs, self.heads, count, -1).transpose(1, 2).reshape(nodes.shape)
        nodes = nodes + self._dropped(linear(seen, self.mix))
        inner = torch.relu(linear(_normed(nodes, self.node_norm), self.expand))
        return nodes + self._dropped(linear(inner, self.contract))

    def _dropped(self, nodes: Tensor) -> Tensor:
        return functional.dropout(nodes, self.dropout.p) if self.training else nodes


def linear(nodes: Tensor, layer: nn.Linear) -> Tensor:
    """Apply a layer without a module's call, which costs as much as some layers do."""
    return functional.linear(nodes, layer.weight, layer.bias)


def _normed(nodes: Tensor, norm: nn.LayerNorm) -> Tensor:
    return functional.layer_norm(nodes, nodes.shape[-1:], norm.weight, norm.bias, norm.eps)


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
        found = self.relation_bias.flatten(0, 1).index_select(1, relations.flatten())
        found = found.view(layers, heads, *relations.shape).transpose(1, 2)
        return found.masked_fill(~present[None, :, None, None, :], float("-inf"))

    def forward(self, nodes: Tensor, biases: Tensor) -> Tensor:
        """Return (G, N, D) from nodes (G, N, D) and `biases` (L, G, H, N, N)."""
        for block, bias in zip(self.blocks, biases.unbind(), strict=True):
            nodes = block.forward(nodes, bias.to(nodes.dtype))
        return _normed(nodes, self.norm)


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
        places = torch.from_numpy(np.concatenate([seen.ravel(), seeing.ravel()]))
        rows, columns = self._table.index_select(1, places).chunk(2, dim=1)
        self._biases[:, 0, :, seeds] = rows.view(*self._shape, most, count)
        self._biases[:, 0, :, :, seeds] = columns.view(*self._shape, count, most)
        return self._biases
