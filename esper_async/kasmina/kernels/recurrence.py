"""Kernels that apply the same layers again: a flow that is integrated, a block that recurs."""

from torch import Tensor
from torch.nn import functional as F

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.blueprint import Blueprint
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.layers import local, norm, pointwise, silent
from esper_async.kasmina.kernels.registry import register
from esper_async.kasmina.kernels.setting import KERNEL_SIZE, Setting, Widened


@register(
    Blueprint(
        id="BP039",
        name="neural_ode_block",
        tier="experimental",
        stage=5,
        risk=0.8,
        output="change",
        description="Integrates a learned flow from the activation over a unit of time, by "
        "Runge-Kutta steps of fourth order (Chen et al. 2018).",
        kinds=("spatial", "sequence", "feature"),
        settings=(
            Setting("width", 4, 512, Widened(1, 16), "hidden channels of the flow"),
            Setting("steps", 1, 8, 2, "steps of four evaluations each"),
        ),
        least_channels=2,
    )
)
class NeuralOdeBlock(Kernel):
    """s = x(1) - x(0) with x(0) = h and dx/dt = W gelu(V norm(x))."""

    def __init__(self, site: SiteInterface, width: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.norm = norm(site, site.channels)
        self.widen = pointwise(site, site.channels, width)
        self.narrow = silent(pointwise(site, width, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        change, size = h - h, 1.0 / self.steps
        for _ in range(self.steps):
            here = h + change
            first = self._flow(here)
            second = self._flow(here + 0.5 * size * first)
            third = self._flow(here + 0.5 * size * second)
            fourth = self._flow(here + size * third)
            change = change + size / 6.0 * (first + 2.0 * second + 2.0 * third + fourth)
        return change

    def _flow(self, x: Tensor) -> Tensor:
        flow: Tensor = self.narrow(F.gelu(self.widen(self.norm(x))))
        return flow


@register(
    Blueprint(
        id="BP042",
        name="recursive_processing",
        tier="experimental",
        stage=5,
        risk=0.8,
        output="change",
        description="One block applied again and again to what it made, with the activation shown "
        "to it each time (Dehghani et al. 2019).",
        kinds=("spatial", "sequence", "feature"),
        settings=(
            Setting("width", 4, 512, Widened(1, 16), "channels of what recurs"),
            Setting("depth", 1, 8, 3, "times that the block is applied"),
            KERNEL_SIZE,
        ),
        least_channels=2,
    )
)
class RecursiveProcessing(Kernel):
    """x_0 = V norm(h); x_{k+1} = x_k + gelu(U norm(x_k) + x_0); s = W x_depth."""

    def __init__(self, site: SiteInterface, width: int, depth: int, kernel_size: int) -> None:
        super().__init__()
        self.depth = depth
        self.before = norm(site, site.channels)
        self.enter = pointwise(site, site.channels, width)
        self.between = norm(site, width)
        self.again = local(site, width, width, kernel_size=kernel_size)
        self.leave = silent(pointwise(site, width, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        shown = self.enter(self.before(h))
        state = shown
        for _ in range(self.depth):
            state = state + F.gelu(self.again(self.between(state)) + shown)
        change: Tensor = self.leave(state)
        return change
