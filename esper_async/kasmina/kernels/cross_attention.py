"""Attention across: learned tokens listen to a site's positions, and the positions ask them."""

import torch
from torch import Tensor, nn

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.blueprint import Blueprint
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.layers import norm, pointwise, silent
from esper_async.kasmina.kernels.registry import register
from esper_async.kasmina.kernels.setting import Setting, Widened

_LOUDEST = 8.0
"""Bound of a score: e to it can be summed over every position in single precision."""


@register(
    Blueprint(
        id="BP019",
        name="cross_attention",
        stage=2,
        risk=0.5,
        output="change",
        description="Learned tokens attend to all positions (on sequences: to the past), and every "
        "position attends to the tokens (Lee et al. 2019; Jaegle et al. 2021).",
        kinds=("spatial", "sequence"),
        settings=(
            Setting("tokens", 2, 64, 8, "learned tokens"),
            Setting("width", 4, 256, Widened(1, 32), "channels of a token"),
        ),
        least_channels=2,
        least_positions=2,
    )
)
class CrossAttention(Kernel):
    """heard_m = sum_j softmax_j(t_m . k_j) v_j; s_i = W sum_m softmax_m(q_i . u_m) heard_m.

    Its cost grows with the positions, not with their square. On a sequence a token has heard, at
    each position, that position and those before.
    """

    def __init__(self, site: SiteInterface, tokens: int, width: int) -> None:
        super().__init__()
        self.causal = site.kind == "sequence"
        self.norm = norm(site, site.channels)
        self.speak = pointwise(site, site.channels, 3 * width)
        self.listen = nn.Parameter(torch.randn(tokens, width))
        self.names = nn.Parameter(torch.randn(tokens, width))
        self.answer = silent(pointwise(site, width, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, C, H, W) or (N, T, D) to a change of it."""
        spoken = self.speak(self.norm(h))
        if not self.causal:
            spoken = spoken.flatten(2).transpose(1, 2)  # (N, H*W, 3 * width)
        query, key, value = spoken.chunk(3, dim=-1)  # each (N, P, width)
        asked = self._alike(query, self.names).softmax(-1)  # (N, P, M)
        heard = self._heard(key, value)  # (N, P or 1, M, width)
        told = (asked.unsqueeze(2) @ heard.to(asked.dtype)).squeeze(2)  # (N, P, width)
        if not self.causal:
            told = torch.unflatten(told.transpose(1, 2), 2, h.shape[2:])
        change: Tensor = self.answer(told)
        return change

    def _heard(self, key: Tensor, value: Tensor) -> Tensor:
        """Return what each token has heard: (N, T, M, width), or (N, 1, M, width) of a map."""
        scores = self._alike(key, self.listen).float()  # (N, P, M)
        loudness = torch.exp(_LOUDEST * torch.tanh(scores / _LOUDEST))
        if not self.causal:
            shares = loudness / loudness.sum(1, keepdim=True)
            return (shares.transpose(1, 2) @ value.float()).unsqueeze(1)
        said = (loudness.unsqueeze(3) * value.unsqueeze(2)).cumsum(1)  # (N, T, M, width)
        return said / loudness.cumsum(1).unsqueeze(3)

    def _alike(self, spoken: Tensor, tokens: Tensor) -> Tensor:
        """Compare (N, P, width) with the tokens: scaled dot products (N, P, M)."""
        alike: Tensor = spoken @ tokens.t() / tokens.shape[1] ** 0.5
        return alike
