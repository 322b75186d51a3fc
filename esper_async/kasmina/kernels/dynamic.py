"""Convolutions that follow the input: in the weights of their taps, or in where these lie."""

import torch
from torch import Tensor
from torch.nn import functional as F

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.blueprint import Blueprint
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.layers import extents, local, norm, pointwise, silent
from esper_async.kasmina.kernels.registry import register
from esper_async.kasmina.kernels.setting import KERNEL_SIZE, LineOrPlane, Setting, Widened


@register(
    Blueprint(
        id="BP025",
        name="dynamic_conv",
        stage=3,
        risk=0.5,
        output="change",
        description="A convolution whose taps every position weighs anew, by what it sees "
        "(Wu et al. 2019).",
        kinds=("spatial", "sequence"),
        settings=(
            Setting("width", 4, 512, Widened(1, 32), "hidden channels, rounded up to the heads"),
            Setting("heads", 1, 16, 4, "groups of channels, each with taps of its own"),
            KERNEL_SIZE,
        ),
        least_channels=2,
        least_positions=2,
    )
)
class DynamicConv(Kernel):
    """s_i = W gelu(sum_k softmax_k(T norm(h_i)) V norm(h_{i+k})), k over the neighbourhood."""

    def __init__(self, site: SiteInterface, width: int, heads: int, kernel_size: int) -> None:
        super().__init__()
        self.causal = site.kind == "sequence"
        self.heads = heads
        self.extents = extents(site, kernel_size)
        self.taps = self.extents[0] * self.extents[1]
        width = -(-width // heads) * heads
        self.norm = norm(site, site.channels)
        self.enter = pointwise(site, site.channels, width)
        self.weigh = pointwise(site, site.channels, heads * self.taps)
        self.leave = silent(pointwise(site, width, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, C, H, W) or (N, T, D) to a change of it."""
        normed = self.norm(h)
        mix = self._along if self.causal else self._around
        change: Tensor = self.leave(F.gelu(mix(self.enter(normed), self.weigh(normed))))
        return change

    def _along(self, entered: Tensor, weighed: Tensor) -> Tensor:
        """Mix (N, T, width) with its past, by weights (N, T, heads * taps)."""
        seen = F.pad(entered, (0, 0, self.taps - 1, 0)).unfold(1, self.taps, 1)
        seen = torch.unflatten(seen, 2, (self.heads, -1))  # (N, T, heads, width / heads, taps)
        shares = torch.unflatten(weighed, 2, (self.heads, 1, -1)).softmax(-1)
        return (shares * seen).sum(-1).flatten(2)

    def _around(self, entered: Tensor, weighed: Tensor) -> Tensor:
        """Mix (N, width, H, W) with its neighbours, by weights (N, heads * taps, H, W)."""
        height, width = self.extents
        seen = F.unfold(entered, self.extents, padding=(height // 2, width // 2))
        seen = torch.unflatten(seen, 1, (self.heads, -1, self.taps))
        shares = torch.unflatten(weighed.flatten(2), 1, (self.heads, 1, self.taps)).softmax(3)
        mixed = (shares * seen).sum(3)  # (N, heads, width / heads, H*W)
        return mixed.reshape(entered.shape)


@register(
    Blueprint(
        id="BP033",
        name="deformable_conv",
        stage=4,
        risk=0.5,
        output="change",
        description="A convolution that moves each of its taps to where the activation tells it to "
        "look (Dai et al. 2017).",
        kinds=("spatial",),
        settings=(
            Setting("width", 4, 256, Widened(1, 16), "hidden channels"),
            Setting("kernel_size", 3, 7, LineOrPlane(5, 3), "taps along each axis", odd=True),
        ),
        least_channels=2,
        least_positions=2,
    )
)
class DeformableConv(Kernel):
    """s(p) = W gelu(sum_k M_k x(p + k + d_k(p))), x = V norm(h) between places, d = D norm(h).

    x is interpolated linearly and zero outside the map. Along an axis of one place nothing moves.
    """

    def __init__(self, site: SiteInterface, width: int, kernel_size: int) -> None:
        super().__init__()
        self.size = site.shape[1:]
        self.extents = extents(site, kernel_size)
        self.taps = self.extents[0] * self.extents[1]
        self.moving = [axis for axis in (0, 1) if self.size[axis] > 1]
        self.norm = norm(site, site.channels)
        self.enter = pointwise(site, site.channels, width)
        self.move = local(
            site, site.channels, len(self.moving) * self.taps, kernel_size=kernel_size
        )
        self.mix = pointwise(site, width * self.taps, width)
        self.leave = silent(pointwise(site, width, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, C, H, W) to a change of it."""
        normed = self.norm(h)
        grid = self._grid(self.move(normed).float()).flatten(1, 2)  # (N, taps * H, W, 2)
        entered = self.enter(normed)
        looked = F.grid_sample(entered.float(), grid, padding_mode="zeros", align_corners=True)
        looked = torch.unflatten(looked, 2, (self.taps, -1)).flatten(
            1, 2
        )  # (N, width * taps, H, W)
        change: Tensor = self.leave(F.gelu(self.mix(looked.to(entered.dtype))))
        return change

    def _grid(self, moved: Tensor) -> Tensor:
        """Turn displacements (N, axes * taps, H, W) into where to look: (N, taps, H, W, 2).

        The last dimension is x and y, each from -1 at the first place of its axis to 1 at the last.
        """
        shifts = torch.unflatten(moved, 1, (len(self.moving), self.taps))  # (N, axes, taps, H, W)
        looks = []
        for axis in (1, 0):
            if axis not in self.moving:
                looks.append(torch.zeros_like(shifts[:, 0]))
                continue
            place = self._places(axis, moved.device) + shifts[:, self.moving.index(axis)]
            looks.append(2.0 * place / (self.size[axis] - 1) - 1.0)
        return torch.stack(looks, dim=-1)

    def _places(self, axis: int, device: torch.device) -> Tensor:
        """Return where along an axis each tap lies unmoved: (taps, H, 1) or (taps, 1, W)."""
        tap = torch.arange(self.taps, device=device)
        along = tap // self.extents[1] if axis == 0 else tap % self.extents[1]
        offsets = along - self.extents[axis] // 2
        places = torch.arange(self.size[axis], device=device)
        shape = (-1, 1) if axis == 0 else (1, -1)
        return offsets[:, None, None] + places.reshape(shape)
