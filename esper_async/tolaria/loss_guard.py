"""The guard over the training loss: it fires when the loss is not finite, or has exploded."""

import math
from typing import Any

EXPLODED = 15.0
"""A loss this many times its running level is one no batch explains."""
LASTING_STEPS = 3
"""An explosion lasts; one batch of outliers does not."""
_MEMORY = 0.98
_LEAST_SHARE = 0.1


class LossGuard:
    """Watches the losses of a run: one a step, or the mean of a boundary on a device.

    The running level is their exponential average. Near the end of a good run it is close to zero,
    where fifteen times of it is nothing: it counts as at least a tenth of the first loss. What may
    be an explosion does not enter it.
    """

    def __init__(self) -> None:
        self._first: float | None = None
        self._level = 0.0
        self._above = 0

    def look(self, loss: float) -> str | None:
        """Take in a step's loss; return what is wrong with it, None if nothing is."""
        if not math.isfinite(loss):
            return f"the training loss is {loss}"
        if self._first is None:
            self._first = self._level = loss
            return None
        scale = max(abs(self._level), _LEAST_SHARE * abs(self._first))
        if loss - self._level > (EXPLODED - 1.0) * scale > 0.0:
            self._above += 1
            if self._above >= LASTING_STEPS:
                return (
                    f"the training loss is {loss:.4g}, and has been over {EXPLODED:.0f} times its "
                    f"level ({self._level:.4g}) {self._above} times in a row"
                )
            return None
        self._above = 0
        self._level = _MEMORY * self._level + (1.0 - _MEMORY) * loss
        return None

    def calm(self) -> None:
        """Begin to count anew: what was wrong has been put right."""
        self._above = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the level and the counts."""
        return {"first": self._first, "level": self._level, "above": self._above}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._first, self._level, self._above = state["first"], state["level"], state["above"]
