"""Choosing among candidates that trained in shadow at the same time."""

import math
from collections.abc import Callable, Sequence

from esper_async.kasmina.gates import GateResult
from esper_async.kasmina.rounds import Round
from esper_async.kasmina.seed import Seed


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


def halve(members: Sequence[Seed], end: Round, *, boundary: int) -> list[tuple[Seed, GateResult]]:
    """Return who is dropped as a round ends, with what ends them; the others are told their place.

    Only what ranks candidates counts here: whether one does harm is asked of the last of them.
    """
    dropped = []
    for place, seed in enumerate(rank(members), start=1):
        goes_on = place <= end.places
        what = "goes on" if goes_on else "is dropped"
        reason = f"place {place} of {len(members)} after {end.steps} steps: {what}"
        numbers = _numbers(seed, place=place, of=len(members), places=end.places)
        if goes_on:
            seed.gates.append(GateResult("round", True, reason, numbers, boundary))
        else:
            dropped.append((seed, GateResult("G2", False, reason, numbers, boundary)))
    return dropped


def _numbers(seed: Seed, **counts: int) -> dict[str, float | None]:
    """Return what a candidate was ranked by, and counts."""
    measured = seed.clean_contribution
    return {
        **{name: float(count) for name, count in counts.items()},
        "steps": float(seed.stage_steps),
        "mean": None if measured is None else measured.mean,
        "low": None if measured is None else measured.low,
        "high": None if measured is None else measured.high,
        "depth": float(seed.site.depth),
        "parameters": float(seed.parameter_count),
    }


def rank(seeds: Sequence[Seed]) -> list[Seed]:
    """Return the seeds, the best first: by clean contribution, as far as that tells them apart.

    Those whose interval reaches the best one's are as good as it. Of these comes first what is
    nearest to the input, then what has most parameters: a shadow is measured on a host that has
    not adapted to it, which hides most where much of the host comes after it, and after some
    hundred steps, when a large kernel is further from its end than a small one. A seed whose
    contribution was not measured, or is not finite, comes last; ties keep order.
    """
    by_mean = sorted(seeds, key=lambda seed: -_mean(seed))
    as_good = [seed for seed in by_mean if _reaches(seed, by_mean[0])]
    worse = [seed for seed in by_mean if seed not in as_good]
    return sorted(as_good, key=lambda seed: (seed.site.depth, -seed.parameter_count)) + worse


def _reaches(seed: Seed, best: Seed) -> bool:
    """Whether the interval of its contribution reaches that of the best."""
    own, other = seed.clean_contribution, best.clean_contribution
    if seed is best or own is None or other is None:
        return seed is best
    return math.isfinite(own.mean) and own.high >= other.low


def _mean(seed: Seed) -> float:
    measured = seed.clean_contribution
    return measured.mean if measured and math.isfinite(measured.mean) else -math.inf
