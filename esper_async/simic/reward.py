"""The reward: four terms, versioned, pure, each within its cap so that a step stays within ±10.

    benefit   +- scale x the bound nearer to zero of the effect against the twin
    rent      -  what the kept seed adds to parameters and compute
    terminal  +  scale x the run's gain on the decision split, at its last step
    budget    -  disruptions and rollbacks

There is no bonus for any action: a step that does nothing earns exactly 0, so does a run that
never grows. The nearer bound pays for certainty: an effect that may be nothing earns nothing.
"""

from dataclasses import dataclass

from esper_async.simic.evidence import Evidence

FORMULA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Weights:
    """Scales (reward per nat or per unit) and caps of the four terms."""

    benefit_per_nat: float = 20.0
    benefit_cap: float = 4.0
    rent_per_host: float = 0.1
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
    """Compute the reward of one step by formula version 1."""
    w = weights or Weights()
    benefit = None
    if evidence.benefit is not None:
        certain = _nearest_zero(evidence.benefit.low, evidence.benefit.high)
        benefit = _capped(w.benefit_per_nat * certain, w.benefit_cap)
    rent = None
    if evidence.parameter_ratio is not None and evidence.compute_ratio is not None:
        added = evidence.parameter_ratio + evidence.compute_ratio
        rent = -_capped(w.rent_per_host * max(0.0, added), w.rent_cap)
    terminal = None
    if evidence.terminal_gain is not None:
        terminal = _capped(w.terminal_per_nat * evidence.terminal_gain, w.terminal_cap)
    spent = w.disruption * evidence.disruptions + w.rollback * evidence.rollbacks
    return Reward(benefit, rent, terminal, -_capped(spent, w.budget_cap))


def _nearest_zero(low: float, high: float) -> float:
    """The bound of an interval nearer to zero; 0 when the interval contains zero."""
    return max(low, 0.0) + min(high, 0.0)


def _capped(value: float, cap: float) -> float:
    """Within ±cap. Raises ValueError on NaN, which no comparison would stop."""
    if value != value:
        raise ValueError("a reward cannot be computed from NaN")
    return max(-cap, min(cap, value))
