"""The pessimistic contextual bandit, learned offline: ridge regression with lower bounds.

Jin, Yang and Wang 2021, "Is Pessimism Provably Efficient for Offline RL?", Algorithm 2 with horizon
1: of the placements offered, plant the one whose lower bound is best. What the data say little
about has a low bound, so that a policy learned from few runs stays near what they tried. The
equations are in `tamiyo.policies.linear_belief`, which the `bandit` policy decides by.
"""

import math

import numpy as np

from esper_async.simic.lessons import Lessons
from esper_async.tamiyo.offer import PLACEMENT_WIDTH, Floats
from esper_async.tamiyo.policies.linear_belief import NOISE_NATS, RIDGE, LinearBelief

PREFERENCE = 3.0
"""Standard errors that an advantage must clear to be a preference: one placement in 700 by luck."""
LEAST_NOISE = 1e-4


def learn_belief(lessons: Lessons) -> LinearBelief:
    """Return what lessons say of placements; without any, that each brings nothing.

    The spread is that of the residuals over the degrees of freedom that the regression leaves.
    """
    features, outcomes = lessons.features, lessons.outcomes  # (N, W), (N,)
    precision = RIDGE * np.eye(PLACEMENT_WIDTH) + features.T @ features
    belief = LinearBelief(precision, features.T @ outcomes)
    used = float(np.trace(np.linalg.solve(precision, features.T @ features)))
    free = len(lessons) - used
    if free < 1.0:
        return belief
    residuals = outcomes - features @ belief.weights
    noise = max(math.sqrt(float(residuals @ residuals) / free), LEAST_NOISE)
    few = len(lessons) < 2 * PLACEMENT_WIDTH
    return LinearBelief(precision, belief.weighted, max(noise, NOISE_NATS) if few else noise)


def preferred(belief: LinearBelief, features: Floats) -> list[int]:
    """Return which of the offered placements (P, W) are surely better than the average of them.

    None are where the lessons tell placements apart no better than chance does.
    """
    beside = features - features.mean(axis=0)
    bounds = belief.lower_bounds(beside, pessimism=PREFERENCE)
    return [int(place) for place in np.flatnonzero(bounds > 0.0)]
