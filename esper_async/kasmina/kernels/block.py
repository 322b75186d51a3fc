"""Blocks that widen the activation, bend it and bring it back: most of the new capacity."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.blueprint import Blueprint
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.layers import channel_axis, local, norm, pointwise, silent
from esper_async.kasmina.kernels.registry import register
from esper_async.kasmina.kernels.setting import KERNEL_SIZE, WIDTH, Setting, Widened


@register(
    Blueprint(
        id="BP009",
        name="residual_block",
        stage=1,
        risk=0.3,
        output="change",
        description="Two convolutions (on features: two linear maps) with a wide layer between "
        "(He et al. 2016).",
        kinds=("spatial", "sequence", "feature"),
        settings=(WIDTH, KERNEL_SIZE),
        least_channels=2,
    )
)
class ResidualBlock(Kernel):
    """s = W2 gelu(norm(W1 norm(h)))."""

    def __init__(self, site: SiteInterface, width: int, kernel_size: int) -> None:
        super().__init__()
        channels = site.channels
        self.before = norm(site, channels)
        self.widen = local(site, channels, width, kernel_size=kernel_size)
        self.between = norm(site, width)
        self.narrow = silent(local(site, width, channels, kernel_size=kernel_size))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        wide = self.between(self.widen(self.before(h)))
        change: Tensor = self.narrow(F.gelu(wide))
        return change


class GatedFeedforward(nn.Module):
    """W3 (gelu(W1 norm(h)) * W2 norm(h)) at every position (Shazeer 2020); starts at zero."""

    def __init__(self, site: SiteInterface, width: int) -> None:
        super().__init__()
        self.axis = channel_axis(site)
        self.norm = norm(site, site.channels)
        self.widen = pointwise(site, site.channels, 2 * width)
        self.narrow = silent(pointwise(site, width, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        bent, gate = self.widen(self.norm(h)).chunk(2, dim=self.axis)
        change: Tensor = self.narrow(F.gelu(bent) * gate)
        return change


@register(
    Blueprint(
        id="BP021",
        name="feedforward_gated",
        stage=2,
        risk=0.5,
        output="change",
        description="A wide gated layer at every position, and back (Shazeer 2020).",
        kinds=("spatial", "sequence", "feature"),
        settings=(Setting("width", 4, 2048, Widened(2, 64), "hidden channels"),),
        least_channels=2,
    )
)
class FeedforwardGated(Kernel):
    """s = W3 (gelu(W1 norm(h)) * W2 norm(h))."""

    def __init__(self, site: SiteInterface, width: int) -> None:
        super().__init__()
        self.feedforward = GatedFeedforward(site, width)

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        change: Tensor = self.feedforward(h)
        return change


@register(
    Blueprint(
        id="BP028",
        name="dense_connection",
        stage=3,
        risk=0.5,
        output="change",
        description="A chain of layers, each seeing the activation and every layer before it "
        "(Huang et al. 2017).",
        kinds=("spatial", "sequence", "feature"),
        settings=(
            Setting("growth", 2, 256, 16, "channels that each layer adds"),
            Setting("layers", 1, 6, 3, "layers in the chain"),
            KERNEL_SIZE,
        ),
        least_channels=2,
    )
)
class DenseConnection(Kernel):
    """x_k = gelu(W_k [h, x_1 .. x_{k-1}]); s = W [h, x_1 ..]."""

    def __init__(self, site: SiteInterface, growth: int, layers: int, kernel_size: int) -> None:
        super().__init__()
        channels = site.channels
        self.axis = channel_axis(site)
        self.norm = norm(site, channels)
        self.chain = nn.ModuleList(
            local(site, channels + done * growth, growth, kernel_size=kernel_size)
            for done in range(layers)
        )
        self.gather = silent(pointwise(site, channels + layers * growth, channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        seen = self.norm(h)
        for layer in self.chain:
            seen = torch.cat((seen, F.gelu(layer(seen))), dim=self.axis)
        change: Tensor = self.gather(seen)
        return change


@register(
    Blueprint(
        id="BP010",
        name="concat_fusion",
        stage=1,
        risk=0.3,
        output="change",
        description="Looks at the activation through branches of growing reach, side by side, and "
        "fuses what they say.",
        kinds=("spatial", "sequence", "feature"),
        settings=(
            Setting("branch_width", 2, 256, Widened(1, 24), "channels of each branch"),
            Setting("branches", 2, 4, 3, "branches, of 1, 3, 5 .. taps"),
        ),
        least_channels=2,
    )
)
class ConcatFusion(Kernel):
    """s = W [gelu(W_1 norm(h)), gelu(W_3 norm(h)), ..]."""

    def __init__(self, site: SiteInterface, branch_width: int, branches: int) -> None:
        super().__init__()
        self.axis = channel_axis(site)
        self.norm = norm(site, site.channels)
        self.branches = nn.ModuleList(
            local(site, site.channels, branch_width, kernel_size=2 * index + 1)
            for index in range(branches)
        )
        self.fuse = silent(pointwise(site, branches * branch_width, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        normed = self.norm(h)
        views = [F.gelu(branch(normed)) for branch in self.branches]
        change: Tensor = self.fuse(torch.cat(views, dim=self.axis))
        return change
