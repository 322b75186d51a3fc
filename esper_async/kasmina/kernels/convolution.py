"""Convolutions that reach further or cost less than a plain one."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.blueprint import Blueprint
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.layers import local, norm, pointwise, silent
from esper_async.kasmina.kernels.registry import register
from esper_async.kasmina.kernels.setting import KERNEL_SIZE, LineOrPlane, Setting, Widened

_DEPTH = Setting("layers", 1, 5, 3, "layers, each reaching twice as far as the one before")


@register(
    Blueprint(
        id="BP013",
        name="grouped_conv",
        stage=1,
        risk=0.4,
        output="change",
        description="A wide convolution whose channels mix only within groups (Xie et al. 2017).",
        kinds=("spatial", "sequence"),
        settings=(
            Setting("width", 4, 1024, Widened(2, 48), "hidden channels, rounded up to the groups"),
            Setting("groups", 2, 16, 4, "groups of channels"),
            KERNEL_SIZE,
        ),
        least_positions=2,
        least_channels=2,
    )
)
class GroupedConv(Kernel):
    """s = W2 gelu(norm(conv_grouped(W1 norm(h))))."""

    def __init__(self, site: SiteInterface, width: int, groups: int, kernel_size: int) -> None:
        super().__init__()
        channels = site.channels
        width = -(-width // groups) * groups
        self.before = norm(site, channels)
        self.widen = pointwise(site, channels, width)
        self.mix = local(site, width, width, kernel_size=kernel_size, groups=groups)
        self.between = norm(site, width)
        self.narrow = silent(pointwise(site, width, channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        mixed = self.between(self.mix(self.widen(self.before(h))))
        change: Tensor = self.narrow(F.gelu(mixed))
        return change


@register(
    Blueprint(
        id="BP015",
        name="depthwise_separable",
        stage=2,
        risk=0.4,
        output="change",
        description="Mixes positions channel by channel, then channels position by position, "
        "through a wide layer (Liu et al. 2022).",
        kinds=("spatial", "sequence"),
        settings=(
            Setting("width", 4, 2048, Widened(4, 64), "hidden channels"),
            Setting("kernel_size", 3, 11, LineOrPlane(9, 7), "taps along each axis", odd=True),
        ),
        least_positions=2,
        least_channels=2,
    )
)
class DepthwiseSeparable(Kernel):
    """s = W2 gelu(W1 norm(conv_depthwise(h)))."""

    def __init__(self, site: SiteInterface, width: int, kernel_size: int) -> None:
        super().__init__()
        channels = site.channels
        self.mix = local(site, channels, channels, kernel_size=kernel_size, groups=channels)
        self.norm = norm(site, channels)
        self.widen = pointwise(site, channels, width)
        self.narrow = silent(pointwise(site, width, channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        change: Tensor = self.narrow(F.gelu(self.widen(self.norm(self.mix(h)))))
        return change


class _Reaching(Kernel):
    """s = W (x_n), x_k = x_{k-1} + gelu(conv_k norm(x_{k-1})), conv_k dilated 2^(k-1)."""

    def __init__(self, site: SiteInterface, width: int, layers: int, kernel_size: int) -> None:
        super().__init__()
        self.before = norm(site, site.channels)
        self.widen = pointwise(site, site.channels, width)
        self.norms = nn.ModuleList(norm(site, width) for _ in range(layers))
        self.convs = nn.ModuleList(
            local(site, width, width, kernel_size=kernel_size, dilation=2**index)
            for index in range(layers)
        )
        self.narrow = silent(pointwise(site, width, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        x = self.widen(self.before(h))
        for normed, conv in zip(self.norms, self.convs, strict=True):
            x = x + F.gelu(conv(normed(x)))
        change: Tensor = self.narrow(x)
        return change


@register(
    Blueprint(
        id="BP032",
        name="dilated_conv",
        stage=4,
        risk=0.5,
        output="change",
        description="A stack of convolutions of doubling dilation: far reach in few layers "
        "(Yu and Koltun 2016).",
        kinds=("spatial", "sequence"),
        settings=(
            Setting("width", 4, 512, Widened(1, 16), "hidden channels"),
            _DEPTH,
            Setting("kernel_size", 3, 7, 3, "taps along each axis", odd=True),
        ),
        least_positions=2,
        least_channels=2,
    )
)
class DilatedConv(_Reaching):
    """A stack of dilated convolutions along every axis."""


@register(
    Blueprint(
        id="BP031",
        name="temporal_conv",
        stage=4,
        risk=0.5,
        output="change",
        description="Two convolutions over time, or over the last axis, with a gate between "
        "(Bai et al. 2018; van den Oord et al. 2016).",
        kinds=("spatial", "sequence"),
        settings=(
            Setting("width", 4, 1024, Widened(1, 32), "hidden channels"),
            Setting("kernel_size", 3, 11, 5, "taps along the last axis", odd=True),
        ),
        least_positions=2,
        least_channels=2,
    )
)
class TemporalConv(Kernel):
    """s = conv2(tanh(a) * sigmoid(b)), [a, b] = conv1(norm(h)), along the last axis only."""

    def __init__(self, site: SiteInterface, width: int, kernel_size: int) -> None:
        super().__init__()
        channels = site.channels
        line = site
        if site.kind == "spatial":
            line = SiteInterface("spatial", (channels, 1, site.shape[2]))
        self.axis = 1 if site.kind == "spatial" else -1
        self.norm = norm(site, channels)
        self.first = local(line, channels, 2 * width, kernel_size=kernel_size)
        self.second = silent(local(line, width, channels, kernel_size=kernel_size))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        signal, gate = self.first(self.norm(h)).chunk(2, dim=self.axis)
        change: Tensor = self.second(torch.tanh(signal) * torch.sigmoid(gate))
        return change
