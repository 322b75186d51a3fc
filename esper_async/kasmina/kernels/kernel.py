"""What every kernel is: a module that keeps its input's shape."""

from typing import ClassVar

from torch import Tensor, nn

from esper_async.kasmina.kernels.blueprint import Blueprint, Output


class Kernel(nn.Module):
    """A module that a seed plants at a site; takes and returns (N, *site.shape).

    The class attributes are set by `register`.
    """

    blueprint: ClassVar[Blueprint]
    output: ClassVar[Output]

    def forward(self, h: Tensor) -> Tensor:
        """Map activations (N, *shape) to a change of them, or to their replacement."""
        raise NotImplementedError
