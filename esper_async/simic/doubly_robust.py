"""What another policy would have earned, from runs that it did not make: doubly robust.

Dudík, Langford and Li 2011, "Doubly Robust Policy Evaluation and Learning", equation 2, for the
difference of two policies π and π₀ on the same trials:

    d_i = (π(a_i) - π₀(a_i)) / p_i · (r_i - q(a_i)) + Σ_a (π(a) - π₀(a)) q(a)

with p the recorded propensities and q a model of the reward. It is right on average where either p
or q is. q is ridge regression on the features, fitted without the runs that it judges. The interval
is from runs drawn anew, as trials of one run are not independent.

Where the runs never did what a policy would do, nothing can be said of it: an estimate that rests
on few trials, or on a few heavy ones, is refused with the reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from esper_async.simic.trials import Trial
from esper_async.tamiyo.offer import PLACEMENT_WIDTH, Floats, Ints

Chances = Callable[[Floats], Floats]
"""A policy: features of what is offered (P, W) to probabilities (P,)."""
RIDGE = 1.0
FOLDS = 5
RESAMPLES = 2_000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class OverlapLimits:
    """What an estimate must rest on.

    Attributes:
        runs: how many runs at the least.
        effective: the effective sample size, in trials.
        share: the same as a share of the trials.
        weight: the largest ratio of a policy's probability to the recorded one.
        mean_weight: between what the mean of these ratios lies, which is 1 but for chance.
    """

    runs: int = 10
    effective: float = 10.0
    share: float = 0.05
    weight: float = 100.0
    mean_weight: tuple[float, float] = (0.5, 2.0)


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much a policy's reward a decision is above the active one's.

    Attributes:
        value: the estimate, and the ends `low` and `high` of its 95 % interval.
        direct: what the model of the reward says alone: a second estimate.
        trials, runs: what it rests on.
        effective: the effective sample size of the trials (Kish), under the new policy.
        largest_weight, mean_weight: of the ratios of its probability to the recorded one.
        refusals: why nothing can be said; empty if something can.
    """

    value: float
    low: float
    high: float
    direct: float
    trials: int
    runs: int
    effective: float
    largest_weight: float
    mean_weight: float
    refusals: tuple[str, ...]

    @property
    def passes(self) -> bool:
        """Whether the policy is no worse, as far as can be said; never where that is nothing."""
        return not self.refusals and self.low >= 0.0


def difference(
    trials: Sequence[Trial],
    new: Chances,
    active: Chances,
    *,
    limits: OverlapLimits | None = None,
    seed: int = 0,
) -> Difference:
    """Estimate by how much `new` is above `active`; without two runs it is refused."""
    limits = limits or OverlapLimits()
    runs = list(dict.fromkeys(trial.run for trial in trials))
    if len(runs) < 2:
        nan = float("nan")
        why = (f"{len(runs)} runs, {limits.runs} are needed",)
        return Difference(nan, nan, nan, nan, len(trials), len(runs), 0.0, nan, nan, why)
    place = {run: index for index, run in enumerate(runs)}
    run_of = np.array([place[trial.run] for trial in trials], dtype=np.int64)  # (N,)
    weights, robust, direct = _terms(trials, run_of, new, active)
    low, high = _interval(robust, run_of, np.random.default_rng(seed))
    squares = float(weights @ weights)
    effective = float(weights.sum()) ** 2 / squares if squares else 0.0
    found = Difference(
        float(robust.mean()), low, high, float(direct.mean()), len(trials), len(runs),
        effective, float(weights.max()), float(weights.mean()), (),
    )  # fmt: skip
    return replace(found, refusals=tuple(_refusals(found, limits)))


def _terms(
    trials: Sequence[Trial], run_of: Ints, new: Chances, active: Chances
) -> tuple[Floats, Floats, Floats]:
    """Return the new policy's weights (N,), d (N,), and what the model says of it alone (N,)."""
    models = reward_models(trials, run_of % FOLDS)
    weights, robust, direct = np.empty((3, len(trials)))
    for index, trial in enumerate(trials):
        model = trial.features @ models[index]  # (P,)
        chances = new(trial.features)
        beside = chances - active(trial.features)
        direct[index] = beside @ model
        missed = trial.reward - model[trial.chosen]
        robust[index] = direct[index] + beside[trial.chosen] / trial.propensity * missed
        weights[index] = chances[trial.chosen] / trial.propensity
    return weights, robust, direct


def reward_models(trials: Sequence[Trial], fold_of: Ints) -> Floats:
    """Return the weights (N, W) of the model that each trial is judged by: its fold left out."""
    features = np.array([trial.features[trial.chosen] for trial in trials])
    rewards = np.array([trial.reward for trial in trials])
    found = np.empty((len(trials), PLACEMENT_WIDTH))
    for fold in np.unique(fold_of):
        others = fold_of != fold
        precision = RIDGE * np.eye(PLACEMENT_WIDTH) + features[others].T @ features[others]
        found[fold_of == fold] = np.linalg.solve(precision, features[others].T @ rewards[others])
    return found


def _interval(values: Floats, run_of: Ints, source: np.random.Generator) -> tuple[float, float]:
    """Return the ends of the interval of a mean (percentile bootstrap over runs)."""
    sums, counts = np.bincount(run_of, values), np.bincount(run_of)
    drawn = source.integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    out = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(means, (out, 1.0 - out))
    return float(low), float(high)


def _refusals(found: Difference, limits: OverlapLimits) -> list[str]:
    told = []
    if found.runs < limits.runs:
        told.append(f"{found.runs} runs, {limits.runs} are needed")
    least = max(limits.effective, limits.share * found.trials)
    if not found.effective >= least:
        told.append(
            f"the {found.trials} trials count as {found.effective:.1f} under the new policy, "
            f"{least:.1f} are needed: they hardly ever did what it would do"
        )
    if not found.largest_weight <= limits.weight:
        told.append(
            f"one trial weighs {found.largest_weight:.1f}, {limits.weight:g} is the limit: the "
            "policy prefers what was hardly ever drawn"
        )
    lowest, highest = limits.mean_weight
    if not lowest <= found.mean_weight <= highest:
        told.append(
            f"trials weigh {found.mean_weight:.2f} on average, and not about 1: what the policy "
            "would do was not drawn, or not with the probability that was recorded"
        )
    if not np.isfinite((found.value, found.low, found.high)).all():
        told.append("the estimate is not finite")
    return told
