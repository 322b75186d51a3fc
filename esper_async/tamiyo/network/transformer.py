"""A dense graph transformer: attention over all nodes, biased by how each sees the other.

The bias is learned per layer, head and relation, as Graphormer's spatial encoding is (Ying et al.
2021, "Do Transformers Really Perform Bad for Graph Representation?", section 3.1.2). For a hundred
nodes on one thread dense attention is as fast as sparse message passing, and needs no library.
"""

import torch
from torch import Tensor, nn

from esper_async.tamiyo.graph.relations import Relation


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
        graphs, count, hidden = nodes.shape
        joint = self.joint(self.attention_norm(nodes))  # (G, N, 3D)
        # (G, N, 3, H, D/H) -> 3 x (G, H, N, D/H)
        query, key, value = joint.view(graphs, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # written out: for some hundred nodes torch's fused kernel takes twice as long on a CPU
        weights = torch.softmax(query @ key.transpose(-1, -2) * self.scale + bias, dim=-1)
        seen = (weights @ value).transpose(1, 2).reshape(graphs, count, hidden)
        nodes = nodes + self.dropout(self.mix(seen))
        inner = torch.relu(self.expand(self.node_norm(nodes)))
        changed: Tensor = nodes + self.dropout(self.contract(inner))
        return changed


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
        """Return (L, G, H, N, N) for relations (G, N, N) and present nodes (G, N).

        Absent nodes are seen by nobody.
        """
        found = self.relation_bias[:, :, relations].transpose(1, 2)  # from (L, H, G, N, N)
        return found.masked_fill(~present[None, :, None, None, :], float("-inf"))

    def forward(self, nodes: Tensor, biases: Tensor) -> Tensor:
        """Return (G, N, D) from nodes (G, N, D) and `biases` (L, G, H, N, N)."""
        for block, bias in zip(self.blocks, biases, strict=True):
            nodes = block(nodes, bias.to(nodes.dtype))
        normed: Tensor = self.norm(nodes)
        return normed
