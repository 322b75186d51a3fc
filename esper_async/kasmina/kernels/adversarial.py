"""Adversarial kernels: what growth must survive. Refused for every live run."""

import torch
from torch import Tensor, nn

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.blueprint import Blueprint
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.layers import per_channel
from esper_async.kasmina.kernels.registry import register
from esper_async.kasmina.kernels.setting import Setting


class _ScaledGradient(Kernel):
    """s = a * h, forward as gentle as a scale can be; its gradient is multiplied by `factor`."""

    factor: float

    def __init__(self, site: SiteInterface) -> None:
        super().__init__()
        self.scale = nn.Parameter(per_channel(site, torch.ones(site.channels)))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to its replacement."""
        scaled = self.scale * h
        return scaled.detach() + self.factor * (scaled - scaled.detach())


@register(
    Blueprint(
        id="BP043",
        name="exploding_gradient",
        tier="adversarial",
        stage=6,
        risk=0.9,
        output="replacement",
        description="Looks like the identity and multiplies every gradient through it by 1e6.",
        kinds=("spatial", "sequence", "feature"),
    )
)
class ExplodingGradient(_ScaledGradient):
    """Gradients times 1e6."""

    factor = 1e6


@register(
    Blueprint(
        id="BP044",
        name="vanishing_gradient",
        tier="adversarial",
        stage=6,
        risk=0.9,
        output="replacement",
        description="Looks like the identity and multiplies every gradient through it by 1e-9.",
        kinds=("spatial", "sequence", "feature"),
    )
)
class VanishingGradient(_ScaledGradient):
    """Gradients times 1e-9."""

    factor = 1e-9


@register(
    Blueprint(
        id="BP045",
        name="nan_injection",
        tier="adversarial",
        stage=6,
        risk=1.0,
        output="replacement",
        description="Behaves for some training passes, then answers with not-a-number.",
        kinds=("spatial", "sequence", "feature"),
        settings=(Setting("after", 0, 10_000, 4, "training passes before the first NaN"),),
    )
)
class NanInjection(Kernel):
    """s = a * h, and from some training pass on NaN."""

    passes: Tensor

    def __init__(self, site: SiteInterface, after: int) -> None:
        super().__init__()
        self.after = after
        self.scale = nn.Parameter(per_channel(site, torch.ones(site.channels)))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to its replacement."""
        if self.training:
            self.passes += 1
        return torch.where(self.passes > self.after, torch.nan, self.scale * h)


@register(
    Blueprint(
        id="BP050",
        name="adversarial_noise",
        tier="adversarial",
        stage=6,
        risk=0.9,
        output="change",
        description="Pushes every value against its own sign.",
        kinds=("spatial", "sequence", "feature"),
        settings=(Setting("level_percent", 1, 400, 100, "size of the push, in hundredths"),),
        gradient_exemption="it has no parameters",
        start_exemption="it is written to do harm",
    )
)
class AdversarialNoise(Kernel):
    """s = -level * sign(h) * |noise|."""

    def __init__(self, site: SiteInterface, level_percent: int) -> None:
        super().__init__()
        self.level = level_percent / 100

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change that works against it."""
        return -self.level * h.sign() * torch.randn_like(h).abs()
