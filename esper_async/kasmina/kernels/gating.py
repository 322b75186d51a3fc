"""Gates that rescale the activation: by channel, by position. All start at exactly one."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.blueprint import Blueprint
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.layers import (
    channel_axis,
    local,
    pointwise,
    running_mean,
    silent,
)
from esper_async.kasmina.kernels.registry import register
from esper_async.kasmina.kernels.setting import LineOrPlane, Setting, Widened

_BOTTLENECK = Setting("width", 2, 256, Widened(1, 16), "hidden channels of the gate")


class _Bottleneck(nn.Module):
    """W2 gelu(W1 x) at every position, starting at zero."""

    def __init__(self, site: SiteInterface, width: int) -> None:
        super().__init__()
        self.squeeze = pointwise(site, site.channels, width)
        self.excite = silent(pointwise(site, width, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        excited: Tensor = self.excite(F.gelu(self.squeeze(h)))
        return excited


@register(
    Blueprint(
        id="BP016",
        name="squeeze_excitation",
        stage=2,
        risk=0.4,
        output="replacement",
        description="Rescales every channel by what the whole activation, averaged over positions, "
        "says about it (Hu et al. 2018); on sequences, averaged over the past.",
        kinds=("spatial", "sequence", "feature"),
        settings=(_BOTTLENECK,),
    )
)
class SqueezeExcitation(Kernel):
    """s = h * 2 sigmoid(W2 gelu(W1 mean(h)))."""

    def __init__(self, site: SiteInterface, width: int) -> None:
        super().__init__()
        self.kind = site.kind
        self.gate = _Bottleneck(site, width)

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to its replacement."""
        return h * 2.0 * torch.sigmoid(self.gate(self._summary(h)))

    def _summary(self, h: Tensor) -> Tensor:
        if self.kind == "spatial":
            return h.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
        return running_mean(h) if self.kind == "sequence" else h


@register(
    Blueprint(
        id="BP017",
        name="channel_attention",
        stage=2,
        risk=0.4,
        output="replacement",
        description="Rescales every channel by both its mean and its largest value "
        "(Woo et al. 2018); on sequences, over the past.",
        kinds=("spatial", "sequence"),
        settings=(_BOTTLENECK,),
        least_positions=2,
    )
)
class ChannelAttention(Kernel):
    """s = h * 2 sigmoid(f(mean(h)) + f(max(h)))."""

    def __init__(self, site: SiteInterface, width: int) -> None:
        super().__init__()
        self.spatial = site.kind == "spatial"
        self.gate = _Bottleneck(site, width)

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to its replacement."""
        if self.spatial:
            mean, peak = h.mean((2, 3), keepdim=True), h.amax((2, 3), keepdim=True)
        else:
            mean, peak = running_mean(h), h.cummax(1).values
        return h * 2.0 * torch.sigmoid(self.gate(mean) + self.gate(peak))


@register(
    Blueprint(
        id="BP018",
        name="spatial_attention",
        stage=2,
        risk=0.4,
        output="replacement",
        description="Rescales every position by the mean and the largest of its and its "
        "neighbours' channels (Woo et al. 2018).",
        kinds=("spatial", "sequence"),
        settings=(
            Setting("width", 2, 64, 8, "hidden channels of the gate"),
            Setting("kernel_size", 3, 11, LineOrPlane(9, 7), "taps along each axis", odd=True),
        ),
        least_positions=2,
    )
)
class SpatialAttention(Kernel):
    """s = h * 2 sigmoid(W gelu(conv([mean_c(h), max_c(h)])))."""

    def __init__(self, site: SiteInterface, width: int, kernel_size: int) -> None:
        super().__init__()
        self.axis = channel_axis(site)
        self.look = local(site, 2, width, kernel_size=kernel_size)
        self.judge = silent(pointwise(site, width, 1))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to its replacement."""
        mean, peak = h.mean(self.axis, keepdim=True), h.amax(self.axis, keepdim=True)
        seen = self.look(torch.cat((mean, peak), dim=self.axis))
        return h * 2.0 * torch.sigmoid(self.judge(F.gelu(seen)))
