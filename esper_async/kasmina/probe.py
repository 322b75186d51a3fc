"""What comes out of a site over a split, with its seed on and with it off.

The network's loss may hide it: behind a normalisation layer an output a million times too large is
as good as any, until the layer's statistics are taken elsewhere.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper_async.kasmina.kernels.graft import first_tensor


@dataclass(frozen=True, slots=True)
class SiteStatistics:
    """Mean, standard deviation and share of values that are not finite, over all of a split.

    `shapes` are those of the outputs, each once, in order.
    """

    mean: float
    std: float
    not_finite: float
    shapes: tuple[tuple[int, ...], ...]

    @property
    def rms(self) -> float:
        """The root mean square."""
        return math.hypot(self.mean, self.std)


class Probe:
    """A variant of a network that is looked at, at a site, while it is evaluated.

    Args:
        variant: runs the network on a batch.
        site: the module whose output is looked at, behind whatever is joined to it.
    """

    def __init__(self, variant: Callable[[Any], tuple[Tensor, Tensor]], site: nn.Module) -> None:
        self._variant = variant
        self._site = site
        self._shapes: set[tuple[int, ...]] = set()
        self._count = 0
        self._sums: Tensor | None = None

    def __call__(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return (output, target) of a batch."""
        handle = self._site.register_forward_hook(self._look)
        try:
            return self._variant(batch)
        finally:
            handle.remove()

    def _look(self, _site: nn.Module, _arguments: Any, output: Any) -> None:
        found = first_tensor(output).detach()
        for part in found.unbind() if found.is_nested else (found,):
            self._add(part)

    def _add(self, values: Tensor) -> None:
        self._shapes.add(tuple(values.shape))
        self._count += values.numel()
        finite = torch.isfinite(values)
        known = torch.where(finite, values, 0.0).double()
        sums = torch.stack([finite.sum().double(), known.sum(), known.square().sum()])
        self._sums = sums if self._sums is None else self._sums + sums

    def statistics(self) -> SiteStatistics | None:
        """Return what was seen, not a number where nothing was finite; None if nothing was seen."""
        if self._sums is None or not self._count:
            return None
        finite, total, squares = self._sums.tolist()
        mean, square = (total / finite, squares / finite) if finite else (math.nan, math.nan)
        std = math.sqrt(max(square - mean**2, 0.0)) if finite else math.nan
        shapes = tuple(sorted(self._shapes))
        return SiteStatistics(mean, std, 1.0 - finite / self._count, shapes)
