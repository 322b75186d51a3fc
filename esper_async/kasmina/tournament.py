"""Choosing among candidates that trained in shadow at the same time."""

import math
from collections.abc import Callable, Sequence

from esper_async.kasmina.gates import GateResult
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.stage import Stage

BIRTH_WEIGHT = 0.25
"""Weight of the gradient norm at birth beside the clean contribution, both standardised."""


def ready(seeds: Sequence[Seed], *, dwell_steps: int) -> list[Seed]:
    """Return the seeds of those tournaments whose members have all trained for their dwell.

    `seeds` are those that train and those that wait for a slot.
    """
    found = []
    for tournament in {seed.tournament: None for seed in seeds}:
        members = [seed for seed in seeds if seed.tournament == tournament]
        if all(has_trained(seed, dwell_steps) for seed in members):
            found += members
    return found


def has_trained(seed: Seed, dwell_steps: int) -> bool:
    """Whether a seed's dwell in TRAINING is over."""
    if seed.stage is not Stage.TRAINING or seed.paused:
        return False
    return seed.stage_steps >= dwell_steps or seed.hurried


def decide(
    members: Sequence[Seed],
    *,
    judge: Callable[[Seed], GateResult],
    has_room: Callable[[Seed], bool],
    boundary: int,
) -> tuple[Seed | None, list[tuple[Seed, GateResult]]]:
    """Return the best seed that passes its gate and has room, and the others with what ends them.

    `judge` gives a seed's verdict by G1 and G2, `has_room` says whether it may be blended.
    """
    winner: Seed | None = None
    losers = []
    for seed in rank(members):
        verdict = judge(seed)
        if winner is None and verdict.passed and has_room(seed):
            winner = seed
        elif verdict.passed:
            lost = GateResult("G2", False, "lost its tournament", verdict.numbers, boundary)
            losers.append((seed, lost))
        else:
            losers.append((seed, verdict))
    return winner, losers


def rank(seeds: Sequence[Seed]) -> list[Seed]:
    """Return the seeds, the best first: by clean contribution and gradient norm at birth.

    A seed whose contribution was not measured, or is not finite, comes last; ties keep order.
    """
    contributions = [_contribution(seed) for seed in seeds]
    births = [_log_birth(seed) for seed in seeds]
    scores = [
        one + BIRTH_WEIGHT * other
        for one, other in zip(_standardised(contributions), _standardised(births), strict=True)
    ]
    order = sorted(range(len(seeds)), key=lambda index: -scores[index])
    return [seeds[index] for index in order]


def _contribution(seed: Seed) -> float:
    return -math.inf if seed.clean_contribution is None else seed.clean_contribution.mean


def _log_birth(seed: Seed) -> float:
    norm = seed.gradients.birth_norm
    if norm is None:
        return -math.inf
    value = float(norm)
    return math.log(value) if value > 0 and math.isfinite(value) else -math.inf


def _standardised(values: Sequence[float]) -> list[float]:
    """Centre and scale the finite values; the others stay worst."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return [0.0] * len(values)
    mean = sum(finite) / len(finite)
    spread = math.sqrt(sum((value - mean) ** 2 for value in finite) / len(finite)) or 1.0
    return [(value - mean) / spread if math.isfinite(value) else -1e9 for value in values]
