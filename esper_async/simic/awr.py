"""Advantage-weighted regression over an ensemble, offline, for decisions among placements.

Peng, Kumar, Zhang and Levine 2019, "Advantage-Weighted Regression: Simple and Scalable Off-Policy
Reinforcement Learning", Algorithm 1 with one iteration over a fixed data set and horizon 1 (the
return of a decision is the reward of its step):

    (1)  V   = argmin_v  Σ (R - v·s)² + λ|v|²                     their eq. 11
    (2)  π   = argmax_θ  Σ w log π_θ(a|s) - λ/2 |θ - θ⁰|²         their eq. 12
         w   = min(exp((R - V(s)) / β), w_max)                    their section 5.2

with s the mean features of what was offered, so that the baseline never sees the action, and
π_θ(a|s) the softmax of θ·φ(a) over what was offered, for which (2) is concave and solved by
Newton's method. R - V is divided by its own spread, so that β is a number without a unit, and the
weights have mean 1, so that N trials count as N against the prior.

There are K members. Each sees the runs drawn anew with replacement (trials of one run are not
independent), and is held to a prior θ⁰ of its own, drawn from N(0, 1/λ) (Osband, Aslanides and
Cassirer 2018, "Randomized Prior Functions for Deep Reinforcement Learning", section 3): where the
data say little, members keep their priors and differ, however few runs there are. Priors come in
pairs of opposite sign and so have mean 0. `softmax_ensemble` decides by the mean less the spread.
"""

from collections.abc import Sequence

import numpy as np

from esper_async.simic.trials import Trial
from esper_async.tamiyo.offer import PLACEMENT_WIDTH, Floats
from esper_async.tamiyo.policies.softmax_ensemble import SoftmaxEnsemble, softmax

TEMPERATURE = 1.0
"""β, in spreads of the advantage."""
MOST_WEIGHT = 20.0
"""w_max, as in the paper."""
RIDGE = 1.0
MEMBERS = 16
_STEPS = 50
_CLOSE = 1e-9


def learn_ensemble(
    trials: Sequence[Trial], *, seed: int = 0, members: int = MEMBERS
) -> SoftmaxEnsemble:
    """Return what trials say of placements; without any, members that disagree about everything.

    Raises:
        ValueError: `members` is odd, or less than 2.
    """
    if members < 2 or members % 2:
        raise ValueError(f"{members} members cannot have priors in pairs")
    source = np.random.default_rng(seed)
    half = source.normal(0.0, RIDGE**-0.5, size=(members // 2, PLACEMENT_WIDTH))
    runs = list(dict.fromkeys(trial.run for trial in trials))
    place = {run: index for index, run in enumerate(runs)}
    run_of = np.array([place[trial.run] for trial in trials], dtype=np.int64)  # (N,)
    found = []
    for prior in [*half, *-half]:
        drawn = source.integers(len(runs), size=len(runs)) if runs else np.zeros(0, dtype=np.int64)
        counts = np.bincount(drawn, minlength=len(runs)).astype(np.float64)[run_of]  # (N,)
        found.append(learn_member(trials, counts, prior))
    tried = [trial.features[trial.chosen] for trial in trials]
    reference = np.mean(tried, axis=0) if tried else np.zeros(PLACEMENT_WIDTH)
    return SoftmaxEnsemble(np.array(found), reference)


def learn_member(trials: Sequence[Trial], counts: Floats, prior: Floats) -> Floats:
    """Return θ (W,) from trials that count so often each (N,), held to a prior (W,)."""
    if not counts.any():
        return prior
    rewards = np.array([trial.reward for trial in trials])
    states = np.array([trial.features.mean(axis=0) for trial in trials])  # (N, W)
    weights = advantage_weights(rewards - baseline(states, rewards, counts), counts)
    return regressed(trials, counts * weights, prior)


def baseline(states: Floats, rewards: Floats, counts: Floats) -> Floats:
    """Return V (N,) of states (N, W), by ridge regression of their rewards (N,)."""
    precision = RIDGE * np.eye(states.shape[1]) + (states.T * counts) @ states
    found: Floats = states @ np.linalg.solve(precision, states.T @ (counts * rewards))
    return found


def advantage_weights(advantages: Floats, counts: Floats) -> Floats:
    """Return w (N,), of mean 1 over all that counts; advantages that are all alike weigh alike."""
    total = counts.sum()
    mean = (counts @ advantages) / total
    spread = float(np.sqrt(counts @ (advantages - mean) ** 2 / total))
    scaled = advantages / spread if spread > _CLOSE else np.zeros_like(advantages)
    powers = np.exp(np.minimum(scaled / TEMPERATURE, np.log(MOST_WEIGHT)))
    found: Floats = powers * total / (counts @ powers)
    return found


def regressed(trials: Sequence[Trial], weights: Floats, prior: Floats) -> Floats:
    """Return the θ (W,) of (2), for weights (N,), by Newton's method with a halving step."""
    theta, value = prior, _value(trials, weights, prior, prior)
    for _ in range(_STEPS):
        gradient, curvature = _derivatives(trials, weights, theta, prior)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > _CLOSE:
            tried = theta + size * step
            better = _value(trials, weights, tried, prior)
            if better >= value:
                break
            size /= 2.0
        else:
            break
        theta, value = tried, better
        if float(np.abs(size * step).max()) < _CLOSE:
            break
    return theta


def _value(trials: Sequence[Trial], weights: Floats, theta: Floats, prior: Floats) -> float:
    """The objective of (2)."""
    told = -RIDGE / 2.0 * float((theta - prior) @ (theta - prior))
    for trial, weight in zip(trials, weights, strict=True):
        if weight:
            scores = trial.features @ theta  # (P,)
            top = scores.max()
            told += weight * float(scores[trial.chosen] - top - np.log(np.exp(scores - top).sum()))
    return told


def _derivatives(
    trials: Sequence[Trial], weights: Floats, theta: Floats, prior: Floats
) -> tuple[Floats, Floats]:
    """The gradient (W,) of (2), and the negative of its Hessian (W, W).

    They are Σ w (φ(a) - E φ) - λ(θ - θ⁰) and Σ w Cov φ + λI, under π_θ.
    """
    gradient = -RIDGE * (theta - prior)
    curvature = RIDGE * np.eye(len(theta))
    for trial, weight in zip(trials, weights, strict=True):
        if weight:
            chances = softmax(trial.features @ theta)
            mean = chances @ trial.features
            beside = trial.features - mean
            gradient = gradient + weight * beside[trial.chosen]
            curvature += weight * (beside.T * chances) @ beside
    return gradient, curvature
