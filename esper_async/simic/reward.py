"""The reward: four terms, versioned, pure, each within its cap so that a step stays within ±10.

    benefit   of a kept seed: scale x the bound nearer to zero of the effect against the twin
    rent      what a kept seed adds to the parameters, and what was computed to try it
    terminal  scale x the run's gain on the decision split, at its last step
    budget    seeds judged in the network and removed, and rollbacks

`docs/rewards.md` says what each guards against. There is no bonus for any action: a step that does
nothing earns exactly 0, and so does a run that never grows. The nearer bound pays for certainty: an
effect that may be nothing earns nothing. A reward is never stored: it is computed where it is read,
so that another formula holds for all history at once.
"""

from dataclasses import dataclass

from esper_async.simic.evidence import Evidence

FORMULA_VERSION = 2
"""Of the formula and its weights together; whatever leaves the store carries it."""


class RewardVersionError(ValueError):
    """A reward was computed by another version of the formula than the one in use."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Scales (reward per nat or per unit) and caps of the four terms."""

    benefit_per_nat: float = 20.0
    benefit_cap: float = 4.0
    rent_per_host: float = 0.1
    rent_per_boundary: float = 0.01
    rent_cap: float = 1.0
    terminal_per_nat: float = 20.0
    terminal_cap: float = 4.0
    disruption: float = 0.2
    rollback: float = 0.5
    budget_cap: float = 1.0


@dataclass(frozen=True, slots=True)
class Reward:
    """The four terms; None where what it needs was not measured, which adds nothing."""

    benefit: float | None
    rent: float | None
    terminal: float | None
    budget: float

    @property
    def total(self) -> float:
        """The sum of what was measured."""
        terms = (self.benefit, self.rent, self.terminal, self.budget)
        return sum(term for term in terms if term is not None)


def reward(evidence: Evidence, weights: Weights | None = None) -> Reward:
    """Compute the reward of one step by formula version 2.

    Raises:
        ValueError: something measured is NaN.
    """
    w = weights or Weights()
    terminal = None
    if evidence.terminal_gain is not None:
        terminal = _capped(w.terminal_per_nat * evidence.terminal_gain, w.terminal_cap)
    spent = w.disruption * evidence.disruptions + w.rollback * evidence.rollbacks
    return Reward(
        _benefit(evidence, w), _rent(evidence, w), terminal, -_capped(spent, w.budget_cap)
    )


def check_version(version: int) -> None:
    """Raise RewardVersionError for a reward that another version computed."""
    if version != FORMULA_VERSION:
        raise RewardVersionError(
            f"the reward is of formula version {version}, and {FORMULA_VERSION} is in use: "
            "compute it again from the store (python -m esper_async.simic.export)"
        )


def _benefit(evidence: Evidence, w: Weights) -> float | None:
    """Pay for what stays: what a removed seed brought went with it."""
    if evidence.kept is False:
        return 0.0
    if evidence.kept is None or evidence.benefit is None:
        return None
    certain = _nearest_zero(evidence.benefit.low, evidence.benefit.high)
    return _capped(w.benefit_per_nat * certain, w.benefit_cap)


def _rent(evidence: Evidence, w: Weights) -> float | None:
    """Bill parameters of what stays, and the work of whatever was tried."""
    added = evidence.parameter_ratio if evidence.kept else None
    if added is None and evidence.compute_boundaries is None:
        return None
    bill = w.rent_per_host * (added or 0.0)
    bill += w.rent_per_boundary * (evidence.compute_boundaries or 0.0)
    return -_capped(max(bill, 0.0) if bill == bill else bill, w.rent_cap)


def _nearest_zero(low: float, high: float) -> float:
    """The bound of an interval nearer to zero; 0 when the interval contains zero."""
    return max(low, 0.0) + min(high, 0.0)


def _capped(value: float, cap: float) -> float:
    """Within ±cap. Raises ValueError on NaN, which no comparison would stop."""
    if value != value:
        raise ValueError("a reward cannot be computed from NaN")
    return max(-cap, min(cap, value))
