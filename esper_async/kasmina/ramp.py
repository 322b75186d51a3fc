"""Ramps: how alpha goes from 0 to its target while a seed is blended in."""

import math
from typing import Literal, get_args

RampSchedule = Literal["linear", "cosine", "sigmoid"]
RAMP_SCHEDULES: tuple[RampSchedule, ...] = get_args(RampSchedule)
_STEEPNESS = 10.0


def ramp(schedule: RampSchedule, progress: float) -> float:
    """Return the share of the target that is due at `progress` in [0, 1]; 0 at 0, 1 at 1, rising.

    cosine starts and ends level, sigmoid spends most of its rise in the middle third.
    """
    if progress <= 0.0:
        return 0.0
    if progress >= 1.0:
        return 1.0
    if schedule == "cosine":
        return 0.5 - 0.5 * math.cos(math.pi * progress)
    if schedule == "sigmoid":
        low, high = _logistic(0.0), _logistic(1.0)
        return (_logistic(progress) - low) / (high - low)
    return progress


def _logistic(progress: float) -> float:
    return 1.0 / (1.0 + math.exp(-_STEEPNESS * (progress - 0.5)))
