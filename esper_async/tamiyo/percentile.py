"""A percentile of measured values."""

import math
from collections.abc import Sequence


def percentile(values: Sequence[float], fraction: float) -> float | None:
    """Return the nearest-rank percentile of `values` in their unit; None when there are none.

    `fraction` lies between 0 and 1: 0.99 is the smallest value that 99 % do not exceed.
    """
    if not values:
        return None
    ordered = sorted(values)
    rank = max(1, math.ceil(fraction * len(ordered)))
    return ordered[rank - 1]
