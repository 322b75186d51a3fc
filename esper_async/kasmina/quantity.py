"""A paired measurement with its interval: how the three quantities of a seed are expressed."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

PairedBy = Literal["sample", "batch"]
Unit = Literal["nats", "loss"]
"""Of a quantity: "loss" is the task's own loss, whatever its unit."""
_Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Quantity:
    """A mean difference of losses in nats (or the loss's own unit) and its 95 % interval.

    Positive means that the first branch of the comparison helps. `estimated` marks a value taken
    against a trend instead of a twin: it contains the host's own learning.
    """

    mean: float
    low: float
    high: float
    n: int
    paired_by: PairedBy
    unit: Unit = "nats"
    estimated: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; a value that is not finite becomes None."""
        return {
            "mean": _finite(self.mean),
            "low": _finite(self.low),
            "high": _finite(self.high),
            "n": self.n,
            "paired_by": self.paired_by,
            "unit": self.unit,
            "estimated": self.estimated,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def paired_difference(
    without: Tensor, with_seed: Tensor, paired_by: PairedBy, unit: Unit = "nats"
) -> Quantity:
    """Compare losses (N,) of the same samples without and with a seed: positive if it helps.

    The interval is the normal one over pairs. A single pair has an infinite interval, and a loss
    that is not finite makes the whole quantity NaN, which no gate accepts.

    Raises:
        ValueError: the two do not hold the same number of losses, or none.
    """
    if without.shape != with_seed.shape or without.ndim != 1 or without.numel() == 0:
        raise ValueError(
            f"cannot pair losses of shapes {tuple(without.shape)} and {tuple(with_seed.shape)}"
        )
    difference = without.double() - with_seed.double()
    count = difference.numel()
    mean = float(difference.mean())
    if count < 2:
        return Quantity(mean, -math.inf, math.inf, count, paired_by, unit)
    half = _Z_95 * float(difference.std()) / math.sqrt(count)
    return Quantity(mean, mean - half, mean + half, count, paired_by, unit)
