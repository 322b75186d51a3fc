"""What a command has come to: SUCCESS or REGRESSION where that is sure, else NEUTRAL. Torch-free.

The evidence is the benefit against the twin, and nothing else: an observed change contains the
host's own learning, and dependence what the host has got used to.
"""

import math
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["SUCCESS", "NEUTRAL", "REGRESSION", "ABORTED"]
LEAST_MARGIN = 0.005
"""Nats (or a share of the loss) that a benefit must clear where no gate has told another margin."""
_Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured effect with its 95 % interval; an estimated one contains the host's learning."""

    mean: float
    low: float
    high: float
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """An outcome, the rule that it follows from, and how sure it is.

    `confidence` is the probability that the effect lies on the outcome's side of zero, as its
    interval has it; None where nothing was measured.
    """

    outcome: Outcome
    rule: str
    margin: float | None = None
    confidence: float | None = None


def verdict(benefit: Interval | None, *, margin: float = LEAST_MARGIN) -> Verdict:
    """Judge a benefit against the twin; an estimate must clear twice the margin."""
    if benefit is None:
        return Verdict("NEUTRAL", "the benefit against the twin was not measured")
    if not all(map(math.isfinite, (benefit.mean, benefit.low, benefit.high))):
        return Verdict("NEUTRAL", "the benefit against the twin is not finite")
    needed = 2.0 * margin if benefit.estimated else margin
    above = chance_above_zero(benefit)
    if benefit.low > needed:
        return Verdict("SUCCESS", "its lower bound clears the margin", needed, above)
    if benefit.high < -needed:
        rule = "its upper bound is below the margin"
        return Verdict("REGRESSION", rule, needed, None if above is None else 1.0 - above)
    sure = None if above is None else max(above, 1.0 - above)
    return Verdict("NEUTRAL", "it cannot be told from nothing", needed, sure)


def chance_above_zero(effect: Interval) -> float | None:
    """Return the probability that an effect is above 0, by the normal its interval was made of."""
    spread = (effect.high - effect.low) / (2.0 * _Z_95)
    if spread <= 0.0:
        return None if effect.mean == 0.0 else float(effect.mean > 0.0)
    return 0.5 * (1.0 + math.erf(effect.mean / (spread * math.sqrt(2.0))))
