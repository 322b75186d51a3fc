"""Kernels that are planted to be found out: they help nothing, and growth must refuse them.

They exist for drills, studies and tests, and are refused for every live run.
"""

import torch
from torch import Tensor, nn

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.blueprint import Blueprint
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.layers import channel_axis, per_channel
from esper_async.kasmina.kernels.registry import register
from esper_async.kasmina.kernels.setting import Setting

_LEVEL = Setting("level_percent", 1, 400, 50, "standard deviation of the noise, in hundredths")


@register(
    Blueprint(
        id="PL001",
        name="planted_trainable_noise",
        tier="planted",
        stage=0,
        risk=1.0,
        output="change",
        description="Fresh noise in every forward, with a trainable scale per channel.",
        kinds=("spatial", "sequence", "feature"),
        settings=(_LEVEL,),
        start_exemption="it is planted to do harm",
    )
)
class TrainableNoise(Kernel):
    """s = a * noise; learns to be silent if it is given the time.

    Nothing else in it learns: with a shift beside the scale it helps a little, and is kept for it.
    """

    def __init__(self, site: SiteInterface, level_percent: int) -> None:
        super().__init__()
        level = torch.full((site.channels,), level_percent / 100)
        self.scale = nn.Parameter(per_channel(site, level))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change that knows nothing of it."""
        return self.scale * torch.randn_like(h)


@register(
    Blueprint(
        id="PL002",
        name="planted_fixed_noise",
        tier="planted",
        stage=0,
        risk=1.0,
        output="change",
        description="One pattern of noise, drawn at birth and added to every sample.",
        kinds=("spatial", "sequence", "feature"),
        settings=(_LEVEL,),
        gradient_exemption="its noise is a buffer; nothing in it can learn",
        start_exemption="it is planted to do harm",
    )
)
class FixedNoise(Kernel):
    """s = noise, the same for ever: a host comes to depend on it and gains nothing."""

    noise: Tensor

    def __init__(self, site: SiteInterface, level_percent: int) -> None:
        super().__init__()
        self.register_buffer("noise", torch.randn(site.shape) * (level_percent / 100))
        self.sequential = site.kind == "sequence"

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change that knows nothing of it."""
        noise = self.noise[: h.shape[1]] if self.sequential else self.noise
        return noise.expand_as(h)


@register(
    Blueprint(
        id="PL003",
        name="planted_rotation",
        tier="planted",
        stage=0,
        risk=1.0,
        output="replacement",
        description="Turns the channels by a random rotation: nothing is lost, nothing gained, "
        "and a host that has adapted to it breaks without it.",
        kinds=("spatial", "sequence", "feature"),
        gradient_exemption="its rotation is a buffer; nothing in it can learn",
        start_exemption="it is planted to do harm",
        least_channels=2,
    )
)
class Rotation(Kernel):
    """s = Q h, Q orthogonal with determinant 1."""

    rotation: Tensor

    def __init__(self, site: SiteInterface) -> None:
        super().__init__()
        turned, triangle = torch.linalg.qr(torch.randn(site.channels, site.channels))
        turned = turned * triangle.diagonal().sign()
        turned[:, 0] *= torch.linalg.det(turned).sign()
        self.register_buffer("rotation", turned)
        self.axis = channel_axis(site)

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to its replacement."""
        return (h.movedim(self.axis, -1) @ self.rotation).movedim(-1, self.axis)
