"""Nonlinearities and norms of the activation itself, each behind a gain that starts at zero."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.blueprint import Blueprint
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.layers import norm, per_channel, silent
from esper_async.kasmina.kernels.registry import register
from esper_async.kasmina.kernels.setting import Setting


@register(
    Blueprint(
        id="BP003",
        name="layer_norm_basic",
        stage=0,
        risk=0.1,
        output="change",
        description="Adds the normalised activation through a gain and a shift per channel.",
        kinds=("spatial", "sequence", "feature"),
        least_channels=2,
    )
)
class LayerNormBasic(Kernel):
    """s = g * normalised(h) + b."""

    def __init__(self, site: SiteInterface) -> None:
        super().__init__()
        self.norm = silent(norm(site, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        change: Tensor = self.norm(h)
        return change


class _Gained(Kernel):
    """s = g * f(a * h + b): f per value, one gain, slope and offset per channel."""

    def __init__(self, site: SiteInterface) -> None:
        super().__init__()
        self.gain = nn.Parameter(per_channel(site, torch.zeros(site.channels)))
        self.slope = nn.Parameter(per_channel(site, torch.ones(site.channels)))
        self.offset = nn.Parameter(per_channel(site, torch.zeros(site.channels)))


@register(
    Blueprint(
        id="BP005",
        name="relu_activation",
        stage=0,
        risk=0.1,
        output="change",
        description="A bent line per channel: a rectifier with a learned knee, slope and gain.",
        kinds=("spatial", "sequence", "feature"),
    )
)
class ReluActivation(_Gained):
    """s = g * relu(a * h + b)."""

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        return self.gain * F.relu(self.slope * h + self.offset)


@register(
    Blueprint(
        id="BP011",
        name="gelu_activation",
        stage=1,
        risk=0.2,
        output="change",
        description="A smooth bend per channel: GELU with a learned knee, slope and gain.",
        kinds=("spatial", "sequence", "feature"),
    )
)
class GeluActivation(_Gained):
    """s = g * gelu(a * h + b)."""

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        return self.gain * F.gelu(self.slope * h + self.offset)


@register(
    Blueprint(
        id="BP007",
        name="pooling_max",
        stage=0,
        risk=0.2,
        output="change",
        description="Adds the largest value of each channel's neighbourhood, through a gain.",
        kinds=("spatial", "sequence"),
        settings=(Setting("window", 3, 9, 3, "places pooled along each axis", odd=True),),
        least_positions=2,
    )
)
class PoolingMax(Kernel):
    """s = g * max over the neighbourhood (on sequences: over the past)."""

    def __init__(self, site: SiteInterface, window: int) -> None:
        super().__init__()
        self.causal = site.kind == "sequence"
        self.window = window
        self.gain = nn.Parameter(per_channel(site, torch.zeros(site.channels)))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        return self.gain * (self._past_max(h) if self.causal else self._around_max(h))

    def _around_max(self, h: Tensor) -> Tensor:
        return F.max_pool2d(h, self.window, stride=1, padding=self.window // 2)

    def _past_max(self, h: Tensor) -> Tensor:
        padded = F.pad(h.transpose(1, 2), (self.window - 1, 0), value=float("-inf"))
        return F.max_pool1d(padded, self.window, stride=1).transpose(1, 2)


@register(
    Blueprint(
        id="BP035",
        name="learned_positional",
        stage=4,
        risk=0.5,
        output="change",
        description="Adds a learned vector for each position.",
        kinds=("spatial", "sequence"),
        least_positions=2,
    )
)
class LearnedPositional(Kernel):
    """s = p, a table the shape of the site; a shorter sequence uses its beginning."""

    def __init__(self, site: SiteInterface) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(site.shape))
        self.sequential = site.kind == "sequence"

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        table = self.table[: h.shape[1]] if self.sequential else self.table
        return table.expand_as(h)
