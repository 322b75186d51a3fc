"""The layers that kernels are made of, each in the form its site's interface asks for.

Spatial activations are (N, C, H, W); a 1-D convolution's (N, C, L) arrives as (N, C, 1, L), so an
axis of one place gets kernels of one tap. Sequence activations are (N, T, D) and every layer that
mixes positions is **causal** there: a kernel planted in a language model must not show a position
what comes after it. Feature activations are (N, F) and have no positions to mix.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.kasmina.interface import SiteInterface

M = TypeVar("M", bound=nn.Module)


def silent(layer: M) -> M:
    """Zero a last layer's own parameters, so that a change starts at nothing.

    Only ever the last layer: it learns from the first step, and what lies before it from the
    second. Zeroing a gate as well would leave nothing with a gradient.
    """
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    return layer


def pointwise(site: SiteInterface, inputs: int, outputs: int, *, bias: bool = True) -> nn.Module:
    """Make the same linear map at every position."""
    if site.kind == "spatial":
        return nn.Conv2d(inputs, outputs, 1, bias=bias)
    return nn.Linear(inputs, outputs, bias=bias)


def norm(site: SiteInterface, channels: int) -> nn.Module:
    """Make a norm without batch statistics: over the sample (spatial) or over each position."""
    if site.kind == "spatial":
        return SampleNorm(1, channels)
    return nn.LayerNorm(channels)


class SampleNorm(nn.GroupNorm):
    """A group norm that may stand first in a kernel, whatever its input's layout.

    In torch 2.8, on the CPU, its backward pass ends the process where a channels-last input asks
    for no gradient: as the activation of a frozen host does, and of one that a shadow detaches.
    """

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same, normed over each sample."""
        if torch.is_grad_enabled() and not h.requires_grad:
            h = h.contiguous()
        return super().forward(h)


def channel_axis(site: SiteInterface) -> int:
    """Return the axis of a batch of activations that holds the channels."""
    return 1 if site.kind == "spatial" else -1


def per_channel(site: SiteInterface, values: Tensor) -> Tensor:
    """Reshape (C,) so that it broadcasts over the site's activations."""
    return values[:, None, None] if site.kind == "spatial" else values


def local(
    site: SiteInterface,
    inputs: int,
    outputs: int,
    *,
    kernel_size: int,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Module:
    """Make a layer that mixes neighbouring positions: a convolution, causal on sequences.

    Kernel extents are cut to what the site can fill, so that no weight lies for ever in padding.
    At a feature site it is a linear map.
    """
    if site.kind == "feature":
        return nn.Linear(inputs, outputs)
    height, width = extents(site, kernel_size, dilation=dilation)
    if site.kind == "sequence":
        return CausalConv(inputs, outputs, width, dilation=dilation, groups=groups)
    return nn.Conv2d(
        inputs,
        outputs,
        (height, width),
        padding=(dilation * (height // 2), dilation * (width // 2)),
        dilation=dilation,
        groups=groups,
    )


def extents(site: SiteInterface, kernel_size: int, *, dilation: int = 1) -> tuple[int, int]:
    """Return the taps along both axes of a map, or (1, taps) of a sequence, cut to the site.

    An odd kernel that reaches out both ways is cut to what an axis can fill, a causal one to the
    past that there is.
    """
    if site.kind == "sequence":
        return 1, min(kernel_size, 1 + (site.shape[0] - 1) // dilation)
    height, width = (min(kernel_size, 1 + 2 * ((size - 1) // dilation)) for size in site.shape[1:])
    return height, width


class CausalConv(nn.Module):
    """A convolution over (N, T, D) in which a position sees itself and what came before."""

    def __init__(
        self, inputs: int, outputs: int, taps: int, *, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, taps, dilation=dilation, groups=groups)
        self.reach = dilation * (taps - 1)

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, T, inputs) to (N, T, outputs)."""
        past_padded = F.pad(h.transpose(1, 2), (self.reach, 0))  # (N, inputs, reach + T)
        mixed: Tensor = self.conv(past_padded)
        return mixed.transpose(1, 2)


def running_mean(h: Tensor) -> Tensor:
    """Average each position of (N, T, D) with all before it: the causal form of a global mean."""
    seen = torch.arange(1, h.shape[1] + 1, device=h.device, dtype=h.dtype)
    return h.cumsum(1) / seen[:, None]
