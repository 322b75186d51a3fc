"""What a learned policy must do whatever it is offered: probabilities, of everything, in time."""

import math
import time
from collections.abc import Callable, Iterator

import numpy as np

from esper_async.simic.doubly_robust import Chances
from esper_async.tamiyo.offer import FACTS, Floats, Offer

OFFERS = 200
LATENCY_LIMIT_S = 0.012
"""Of a decision, as of every policy's (thread CPU time, the median)."""
_TIMED = 20
_LARGE = 1_000


def faults_of(
    chances: Chances, *, seed: int = 0, clock: Callable[[], float] = time.thread_time
) -> list[str]:
    """Return in words what is wrong with a policy: features (P, W) to probabilities (P,).

    It is asked about offers of every size, with facts that are missing and sizes beyond all that it
    has seen; what it answers must be probabilities of what was offered, each above nought. `clock`
    is in seconds.
    """
    source = np.random.default_rng(seed)
    told = dict.fromkeys(filter(None, (_fault(chances, each) for each in _offers(source))))
    features = _offer(source, _LARGE, missing=0.0).features()
    took = sorted(_took_s(chances, features, clock) for _ in range(_TIMED))[_TIMED // 2]
    if not took <= LATENCY_LIMIT_S:
        told[f"a decision takes {1e3 * took:.1f} ms, {1e3 * LATENCY_LIMIT_S:g} are allowed"] = None
    return list(told)


def _offers(source: np.random.Generator) -> Iterator[Floats]:
    for number in range(OFFERS):
        placements = int(source.integers(1, 60))
        yield _offer(source, placements, missing=(0.0, 0.3, 1.0)[number % 3]).features()


def _offer(source: np.random.Generator, placements: int, *, missing: float) -> Offer:
    """Return an offer whose facts are missing with that probability."""
    sites, blueprints = 1 + placements // 4, 1 + placements // 2
    facts = source.random((blueprints, FACTS)) * (6.0, 1.0, 1.0, 1.0)
    facts[source.random(facts.shape) < missing] = math.nan
    return Offer(
        tuple(f"s{place}" for place in range(sites)),
        source.integers(0, 200, size=sites),
        tuple(f"b{place}" for place in range(blueprints)),
        facts,
        source.integers(0, sites, size=placements),
        source.integers(0, blueprints, size=placements),
        (10.0 ** source.uniform(0, 9, size=placements)).astype(np.int64),
        int(10.0 ** source.uniform(0, 9)),
    )


def _fault(chances: Chances, features: Floats) -> str:
    found = chances(features)
    if found.shape != (len(features),):
        return f"probabilities of shape {found.shape} for {len(features)} placements"
    if not np.isfinite(found).all():
        return "a probability is not finite"
    if not (found > 0.0).all():
        return "a placement has no chance at all, and could never be learned of again"
    if not math.isclose(float(found.sum()), 1.0, abs_tol=1e-9):
        return f"the probabilities add up to {float(found.sum()):.6f}"
    return ""


def _took_s(chances: Chances, features: Floats, clock: Callable[[], float]) -> float:
    began = clock()
    chances(features)
    return clock() - began
