"""Linear maps and the plain ways around them: identity, projection, skip, highway."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.blueprint import Blueprint
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.layers import local, norm, per_channel, pointwise, silent
from esper_async.kasmina.kernels.registry import register
from esper_async.kasmina.kernels.setting import KERNEL_SIZE, Setting


@register(
    Blueprint(
        id="BP001",
        name="identity_passthrough",
        stage=0,
        risk=0.0,
        output="replacement",
        description="Hands the activation on untouched: the fallback, and the null treatment.",
        kinds=("spatial", "sequence", "feature"),
        gradient_exemption="it has no parameters",
    )
)
class IdentityPassthrough(Kernel):
    """s = h."""

    def __init__(self, site: SiteInterface) -> None:
        super().__init__()

    def forward(self, h: Tensor) -> Tensor:
        """Return the very same tensor."""
        return h


@register(
    Blueprint(
        id="BP002",
        name="linear_projection",
        stage=0,
        risk=0.1,
        output="change",
        description="A linear map of the channels at every position, of full or low rank.",
        kinds=("spatial", "sequence", "feature"),
        settings=(Setting("rank", 0, 512, 0, "rank of the map; 0 for a full one"),),
    )
)
class LinearProjection(Kernel):
    """s = W h + b, or s = U V h + b."""

    def __init__(self, site: SiteInterface, rank: int) -> None:
        super().__init__()
        channels = site.channels
        self.down = pointwise(site, channels, rank, bias=False) if rank else nn.Identity()
        self.up = silent(pointwise(site, rank or channels, channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        change: Tensor = self.up(self.down(h))
        return change


@register(
    Blueprint(
        id="BP008",
        name="skip_connection",
        stage=1,
        risk=0.2,
        output="change",
        description="A second, weighted path for every channel past whatever follows.",
        kinds=("spatial", "sequence", "feature"),
    )
)
class SkipConnection(Kernel):
    """s = g * h, one gain per channel."""

    def __init__(self, site: SiteInterface) -> None:
        super().__init__()
        self.gain = nn.Parameter(per_channel(site, torch.zeros(site.channels)))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        return self.gain * h


@register(
    Blueprint(
        id="BP012",
        name="layer_scaling",
        stage=1,
        risk=0.3,
        output="replacement",
        description="Rescales and shifts every channel.",
        kinds=("spatial", "sequence", "feature"),
    )
)
class LayerScaling(Kernel):
    """s = a * h + b, one pair per channel, starting at 1 and 0."""

    def __init__(self, site: SiteInterface) -> None:
        super().__init__()
        self.scale = nn.Parameter(per_channel(site, torch.ones(site.channels)))
        self.shift = nn.Parameter(per_channel(site, torch.zeros(site.channels)))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to its replacement."""
        return self.scale * h + self.shift


@register(
    Blueprint(
        id="BP014",
        name="highway_gate",
        stage=1,
        risk=0.4,
        output="replacement",
        description="Lets a learned gate choose, value by value, between the activation and a "
        "transform of its neighbourhood (Srivastava et al. 2015).",
        kinds=("spatial", "sequence", "feature"),
        settings=(KERNEL_SIZE,),
        least_channels=2,
    )
)
class HighwayGate(Kernel):
    """s = h + t * (gelu(W norm(h)) - h), with the gate t starting near 0.05."""

    def __init__(self, site: SiteInterface, kernel_size: int) -> None:
        super().__init__()
        channels = site.channels
        self.norm = norm(site, channels)
        self.transform = local(site, channels, channels, kernel_size=kernel_size)
        self.gate = silent(pointwise(site, channels, channels))
        self.closed = -3.0

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to its replacement."""
        normed = self.norm(h)
        open_share = torch.sigmoid(self.gate(normed) + self.closed)
        return h + open_share * (F.gelu(self.transform(normed)) - h)
