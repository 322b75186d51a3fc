"""Attention along a graph of a site's positions, whose edges are learned."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.blueprint import Blueprint, positions
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.layers import norm, pointwise, silent
from esper_async.kasmina.kernels.registry import register
from esper_async.kasmina.kernels.setting import Setting, Widened

_EDGE_RANK = 4


@register(
    Blueprint(
        id="BP030",
        name="graph_attention",
        stage=4,
        risk=0.5,
        output="change",
        description="Attention between positions along the edges of a learned graph "
        "(Velickovic et al. 2018).",
        kinds=("spatial", "sequence"),
        settings=(
            Setting("width", 4, 256, Widened(1, 24), "channels over all heads, rounded up"),
            Setting("heads", 1, 8, 2, "heads, each with edges of its own"),
        ),
        least_channels=2,
        least_positions=2,
        most_positions=256,
    )
)
class GraphAttention(Kernel):
    """s_i = W gelu(sum_j softmax_j(gelu(a . x_i + b . x_j) + e_ij) x_j), with x = V norm(h).

    The edges e = U1 U2^T are of low rank. GELU stands for the source's leaky rectifier, behind
    which `a` has no gradient where all scores of a position have one sign.
    """

    def __init__(self, site: SiteInterface, width: int, heads: int) -> None:
        super().__init__()
        self.causal = site.kind == "sequence"
        self.heads = heads
        depth, places = -(-width // heads), positions(site)
        self.norm = norm(site, site.channels)
        self.enter = pointwise(site, site.channels, heads * depth)
        self.target = nn.Parameter(torch.randn(heads, depth, 1) / depth**0.5)
        self.source = nn.Parameter(torch.randn(heads, depth, 1) / depth**0.5)
        self.into = nn.Parameter(torch.randn(heads, places, _EDGE_RANK))
        self.out_of = nn.Parameter(torch.randn(heads, places, _EDGE_RANK))
        self.leave = silent(pointwise(site, heads * depth, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, C, H, W) or (N, T, D) to a change of it."""
        nodes = self.enter(self.norm(h))
        if not self.causal:
            nodes = nodes.flatten(2).transpose(1, 2)  # (N, P, width)
        x = torch.unflatten(nodes, 2, (self.heads, -1)).transpose(1, 2)  # (N, heads, P, depth)
        heard = (self._shares(x) @ x).transpose(1, 2).flatten(2)  # (N, P, width)
        if not self.causal:
            heard = torch.unflatten(heard.transpose(1, 2), 2, h.shape[2:])
        change: Tensor = self.leave(F.gelu(heard))
        return change

    def _shares(self, x: Tensor) -> Tensor:
        """Return how much of each position j goes to each i: (N, heads, P, P)."""
        count = x.shape[2]  # a sequence may be shorter than its site
        edges = self.into[:, :count] @ self.out_of[:, :count].mT / _EDGE_RANK**0.5
        scores = F.gelu(x @ self.target + (x @ self.source).mT) + edges
        if self.causal:
            seen = torch.ones(count, count, dtype=torch.bool, device=x.device).tril()
            scores = scores.masked_fill(~seen, float("-inf"))
        shares: Tensor = scores.softmax(-1)
        return shares
