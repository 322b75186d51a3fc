"""Attention in two steps: within windows of positions, then among the windows."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.blueprint import Blueprint, positions
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.layers import norm, silent
from esper_async.kasmina.kernels.registry import register
from esper_async.kasmina.kernels.setting import Setting, Widened


@register(
    Blueprint(
        id="BP037",
        name="hierarchical_attention",
        tier="experimental",
        stage=5,
        risk=0.7,
        output="change",
        description="Attention within windows of positions, then from each position to the windows "
        "(Yang et al. 2016); on sequences, to those that are past.",
        kinds=("spatial", "sequence"),
        settings=(
            Setting("width", 8, 512, Widened(1, 32), "channels of either step"),
            Setting("window", 2, 64, 8, "positions in a window"),
        ),
        least_channels=2,
        least_positions=4,
        most_positions=4096,
    )
)
class HierarchicalAttention(Kernel):
    """a = attention within windows; s = W [a, attention from a to the windows' means of a].

    A position may attend to nothing, too: one in the first window of a sequence has nothing else.
    """

    def __init__(self, site: SiteInterface, width: int, window: int) -> None:
        super().__init__()
        self.causal = site.kind == "sequence"
        self.window = min(window, positions(site) // 2)
        self.norm = norm(site, site.channels)
        self.place = None
        if not self.causal:
            self.place = nn.Parameter(0.1 * torch.randn(positions(site), site.channels))
        self.within = nn.Linear(site.channels, 3 * width, bias=False)
        self.ask = nn.Linear(width, width, bias=False)
        self.offer = nn.Linear(width, 2 * width, bias=False)
        self.nothing = nn.Parameter(torch.randn(2 * width))
        self.answer = silent(nn.Linear(2 * width, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, C, H, W) or (N, T, D) to a change of it."""
        tokens = self.norm(h)
        if self.place is not None:
            tokens = tokens.flatten(2).transpose(1, 2) + self.place  # (N, H*W, C)
        near, windows = self._near(tokens)
        far = self._far(near, windows)
        change: Tensor = self.answer(torch.cat((near, far), dim=-1))  # (N, P, C)
        return change if self.causal else change.transpose(1, 2).reshape(h.shape)

    def _near(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Attend within windows; return (N, P, width) and the windows' means (N, B, width)."""
        count = tokens.shape[1]
        blocks = -(-count // self.window)
        padding = blocks * self.window - count
        asked = F.pad(self.within(tokens), (0, 0, 0, padding))
        asked = asked.view(tokens.shape[0], blocks, self.window, -1)  # (N, B, window, 3 * width)
        there = torch.arange(blocks * self.window, device=tokens.device) < count
        there = there.view(blocks, 1, self.window)
        seen = there.expand(blocks, self.window, self.window)
        if self.causal:
            seen = torch.ones_like(seen).tril()  # what pads a sequence comes after all of it
        query, key, value = asked.chunk(3, dim=-1)
        heard = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        weights = there.transpose(1, 2).to(heard.dtype)  # (B, window, 1)
        means = (heard * weights).sum(2) / weights.sum(1)
        return heard.flatten(1, 2)[:, :count], means

    def _far(self, near: Tensor, windows: Tensor) -> Tensor:
        """Attend from every position to the windows, or to nothing; return (N, P, width)."""
        offered = self.offer(windows)  # (N, B, 2 * width)
        nothing = self.nothing.to(offered.dtype).expand(offered.shape[0], 1, -1)
        key, value = torch.cat((nothing, offered), dim=1).chunk(2, dim=-1)
        seen = None
        if self.causal:
            own = torch.arange(near.shape[1], device=near.device) // self.window
            past = torch.arange(windows.shape[1], device=near.device) < own[:, None]  # (P, B)
            seen = F.pad(past, (1, 0), value=True)
        return F.scaled_dot_product_attention(self.ask(near), key, value, attn_mask=seen)
