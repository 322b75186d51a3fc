"""Kernels that look at the activation on several scales, from the whole of it to its details."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.blueprint import Blueprint
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.layers import local, norm, pointwise, silent
from esper_async.kasmina.kernels.registry import register
from esper_async.kasmina.kernels.setting import Setting, Widened

_Extents = tuple[int, int]


@register(
    Blueprint(
        id="BP026",
        name="adaptive_pooling",
        stage=3,
        risk=0.5,
        output="change",
        description="Adds what means over the whole, halves and quarters of each axis hold "
        "(Zhao et al. 2017); on sequences, over so long a stretch of the past.",
        kinds=("spatial", "sequence"),
        settings=(
            Setting("width", 2, 512, Widened(1, 24), "channels of each scale"),
            Setting("scales", 1, 5, 3, "scales, each half as coarse as the one before"),
        ),
        least_channels=2,
        least_positions=2,
    )
)
class AdaptivePooling(Kernel):
    """s = W gelu(V_0 norm(h) + sum_k V_k mean_k(norm(h)))."""

    def __init__(self, site: SiteInterface, width: int, scales: int) -> None:
        super().__init__()
        self.causal = site.kind == "sequence"
        sizes = site.shape[:1] if self.causal else site.shape[1:]
        self.windows = [tuple(-(-size // 2**k) for size in sizes) for k in range(scales)]
        self.norm = norm(site, site.channels)
        self.here = pointwise(site, site.channels, width)
        self.around = nn.ModuleList(
            pointwise(site, site.channels, width, bias=False) for _ in range(scales)
        )
        self.leave = silent(pointwise(site, width, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, C, H, W) or (N, T, D) to a change of it."""
        normed = self.norm(h)
        held = self.here(normed)
        for window, layer in zip(self.windows, self.around, strict=True):
            if self.causal:
                held = held + layer(_past_mean(normed, window[0]))
            else:
                held = held + _spread(layer(_pooled(normed, window)), window, held)
        change: Tensor = self.leave(F.gelu(held))
        return change


def _pooled(h: Tensor, window: tuple[int, ...]) -> Tensor:
    """Average (N, C, H, W) over windows side by side, the last ones cut at the border."""
    return F.avg_pool2d(h, window, stride=window, ceil_mode=True, count_include_pad=False)


def _spread(coarse: Tensor, window: tuple[int, ...], like: Tensor) -> Tensor:
    """Give every place of `like` (N, C, H, W) the value of the window that it lies in."""
    spread = coarse.repeat_interleave(window[0], 2).repeat_interleave(window[1], 3)
    return spread[:, :, : like.shape[2], : like.shape[3]]


def _past_mean(h: Tensor, window: int) -> Tensor:
    """Average each position of (N, T, D) with those before it, `window` in all."""
    total = h.float().cumsum(1)
    recent = total - F.pad(total, (0, 0, window, 0))[:, : h.shape[1]]
    seen = torch.arange(1, h.shape[1] + 1, device=h.device).clamp(max=window)
    return (recent / seen[:, None]).to(h.dtype)


@register(
    Blueprint(
        id="BP027",
        name="feature_pyramid",
        stage=3,
        risk=0.5,
        output="change",
        description="Goes down to coarser and coarser maps and comes back up, adding the coarse to "
        "the fine (Lin et al. 2017).",
        kinds=("spatial",),
        settings=(
            Setting("width", 4, 512, Widened(1, 16), "channels of every map"),
            Setting("levels", 2, 5, 3, "maps, each half the size of the one before"),
        ),
        least_channels=2,
        least_positions=4,
    )
)
class FeaturePyramid(Kernel):
    """x_0 = V norm(h), x_k = gelu(conv_k half(x_{k-1})); p_k = L_k x_k + twice(p_{k+1}).

    s = W gelu(conv p_0). An axis of one place is never halved.
    """

    def __init__(self, site: SiteInterface, width: int, levels: int) -> None:
        super().__init__()
        maps = [SiteInterface("spatial", (width, *site.shape[1:]))]
        for _ in range(1, levels):
            maps.append(SiteInterface("spatial", (width, *_halved(maps[-1]))))
        self.windows = [_window(finer) for finer in maps[:-1]]
        self.norm = norm(site, site.channels)
        self.enter = pointwise(site, site.channels, width)
        self.down = nn.ModuleList(local(each, width, width, kernel_size=3) for each in maps[1:])
        self.across = nn.ModuleList(pointwise(each, width, width) for each in maps[:-1])
        self.smooth = local(maps[0], width, width, kernel_size=3)
        self.leave = silent(pointwise(site, width, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, C, H, W) to a change of it."""
        x = self.enter(self.norm(h))
        fine: list[Tensor] = []
        for window, conv in zip(self.windows, self.down, strict=True):
            fine.append(x)
            x = F.gelu(conv(_pooled(x, window)))
        for window, layer in reversed(list(zip(self.windows, self.across, strict=True))):
            there = fine.pop()
            x = layer(there) + _spread(x, window, there)
        change: Tensor = self.leave(F.gelu(self.smooth(x)))
        return change


def _window(finer: SiteInterface) -> _Extents:
    """Return the places along each axis of a map that become one on the next."""
    height, width = finer.shape[1:]
    return min(2, height), min(2, width)


def _halved(finer: SiteInterface) -> _Extents:
    """Return height and width of the next coarser map."""
    height, width = finer.shape[1:]
    return -(-height // 2), -(-width // 2)
