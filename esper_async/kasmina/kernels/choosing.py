"""Kernels that choose what to compute by looking: experts, operations, weights, memories."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.blueprint import Blueprint
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.layers import (
    channel_axis,
    local,
    norm,
    pointwise,
    running_mean,
    silent,
)
from esper_async.kasmina.kernels.registry import register
from esper_async.kasmina.kernels.setting import Setting, Widened

_EXPERTS = 4


@register(
    Blueprint(
        id="BP036",
        name="mixture_of_experts_4",
        tier="experimental",
        stage=5,
        risk=0.7,
        output="change",
        description="Four experts at every position, each weighted by a router's softmax "
        "(Jacobs et al. 1991).",
        kinds=("spatial", "sequence", "feature"),
        settings=(Setting("width", 2, 512, Widened(1, 16), "hidden channels of each expert"),),
        least_channels=2,
    )
)
class MixtureOfExperts4(Kernel):
    """s = sum_k softmax(R norm(h))_k W_k gelu(V_k norm(h))."""

    def __init__(self, site: SiteInterface, width: int) -> None:
        super().__init__()
        self.axis = channel_axis(site)
        self.norm = norm(site, site.channels)
        self.route = pointwise(site, site.channels, _EXPERTS)
        self.widen = pointwise(site, site.channels, _EXPERTS * width)
        self.narrow = silent(pointwise(site, _EXPERTS * width, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        normed = self.norm(h)
        shares = self.route(normed).softmax(self.axis).chunk(_EXPERTS, dim=self.axis)
        experts = F.gelu(self.widen(normed)).chunk(_EXPERTS, dim=self.axis)
        weighted = [share * expert for share, expert in zip(shares, experts, strict=True)]
        change: Tensor = self.narrow(torch.cat(weighted, dim=self.axis))
        return change


@register(
    Blueprint(
        id="BP038",
        name="memory_augmented",
        tier="experimental",
        stage=5,
        risk=0.8,
        output="change",
        description="Every position reads from a learned memory what is alike to it "
        "(Sukhbaatar et al. 2015).",
        kinds=("spatial", "sequence", "feature"),
        settings=(
            Setting("slots", 4, 256, 32, "entries of the memory"),
            Setting("width", 4, 256, Widened(1, 16), "channels of an entry"),
        ),
        least_channels=2,
    )
)
class MemoryAugmented(Kernel):
    """s = W softmax(Q norm(h) K^T / sqrt(d)) V with K and V learned, not computed."""

    def __init__(self, site: SiteInterface, slots: int, width: int) -> None:
        super().__init__()
        self.axis = channel_axis(site)
        self.norm = norm(site, site.channels)
        self.ask = pointwise(site, site.channels, width)
        self.keys = nn.Parameter(torch.randn(slots, width))
        self.values = nn.Parameter(torch.randn(slots, width))
        self.answer = silent(pointwise(site, width, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        query = self.ask(self.norm(h)).movedim(self.axis, -1)  # (N, ..., width)
        alike = query @ self.keys.t() / self.keys.shape[1] ** 0.5  # (N, ..., slots)
        read = alike.softmax(-1) @ self.values
        change: Tensor = self.answer(read.movedim(-1, self.axis))
        return change


@register(
    Blueprint(
        id="BP040",
        name="differentiable_nas",
        tier="experimental",
        stage=5,
        risk=0.8,
        output="change",
        description="A softmax over five operations of growing reach, whose weights are learned "
        "beside theirs (Liu et al. 2019).",
        kinds=("spatial", "sequence", "feature"),
        settings=(Setting("width", 2, 512, Widened(1, 16), "channels of each operation"),),
        least_channels=2,
    )
)
class DifferentiableNas(Kernel):
    """s = W gelu(sum_k softmax(a)_k op_k(V norm(h)))."""

    def __init__(self, site: SiteInterface, width: int) -> None:
        super().__init__()
        self.norm = norm(site, site.channels)
        self.enter = pointwise(site, site.channels, width)
        self.operations = nn.ModuleList(
            (
                nn.Identity(),
                nn.Tanh(),
                pointwise(site, width, width),
                local(site, width, width, kernel_size=3),
                local(site, width, width, kernel_size=5),
            )
        )
        self.choice = nn.Parameter(torch.zeros(len(self.operations)))
        self.leave = silent(pointwise(site, width, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        entered = self.enter(self.norm(h))
        shares = self.choice.softmax(0).unbind()
        mixed = [
            share * operation(entered)
            for share, operation in zip(shares, self.operations, strict=True)
        ]
        change: Tensor = self.leave(F.gelu(torch.stack(mixed).sum(0)))
        return change


@register(
    Blueprint(
        id="BP041",
        name="meta_learning_layer",
        tier="experimental",
        stage=5,
        risk=0.8,
        output="change",
        description="A layer of low rank whose weights another layer makes from the activation "
        "(Ha et al. 2017); on sequences, from the past.",
        kinds=("spatial", "sequence", "feature"),
        settings=(
            Setting("width", 4, 256, Widened(1, 16), "hidden channels"),
            Setting("rank", 1, 16, 2, "rank of the weights that are made"),
        ),
        least_channels=2,
    )
)
class MetaLearningLayer(Kernel):
    """x = V norm(h); s = W gelu(x + A(m) B(m) x) with m the mean of norm(h)."""

    def __init__(self, site: SiteInterface, width: int, rank: int) -> None:
        super().__init__()
        self.kind = site.kind
        self.axis = channel_axis(site)
        self.rank = rank
        self.norm = norm(site, site.channels)
        self.enter = pointwise(site, site.channels, width)
        self.make = nn.Linear(site.channels, 2 * rank * width)
        self.leave = silent(pointwise(site, width, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        normed = self.norm(h)
        made = self.make(self._summary(normed))  # (N, [T or 1, 1], 2 * rank * width)
        write, read = made.unflatten(-1, (2, self.rank, -1)).unbind(-3)  # (.., rank, width)
        entered = self.enter(normed).movedim(self.axis, -1).unsqueeze(-2)  # (N, .., 1, width)
        heard = (read * entered).mean(-1, keepdim=True)  # (N, .., rank, 1)
        bent = F.gelu(entered.squeeze(-2) + (write * heard).sum(-2))
        change: Tensor = self.leave(bent.movedim(-1, self.axis))
        return change

    def _summary(self, normed: Tensor) -> Tensor:
        if self.kind == "spatial":
            return normed.mean((2, 3))[:, None, None]  # (N, 1, 1, C)
        return running_mean(normed) if self.kind == "sequence" else normed
