"""What a decision was drawn from: everything that was offered, and the probability of each."""

from dataclasses import dataclass

import numpy as np

from esper_async.leyline import DecisionRecord
from esper_async.tamiyo.offer import Floats, Offer


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """One choice among P placements and to plant nothing, under the policy that made it.

    Attributes:
        probabilities: of each placement (P,).
        idle: of planting nothing.
        chosen: the place of what was planted; None for nothing.
    """

    offer: Offer
    probabilities: Floats
    idle: float
    chosen: int | None

    @property
    def propensity(self) -> float:
        """How likely what was chosen was."""
        return self.idle if self.chosen is None else float(self.probabilities[self.chosen])


def draw_of(decision: DecisionRecord) -> Draw | None:
    """Return what a decision was drawn from; None where that was not recorded."""
    if not decision.HasField("choices"):
        return None
    told = decision.choices
    return Draw(
        Offer.from_message(told),
        np.array(told.probabilities, dtype=np.float64),
        told.idle_probability,
        told.chosen if told.HasField("chosen") else None,
    )
