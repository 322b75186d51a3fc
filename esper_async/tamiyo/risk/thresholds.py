"""From a score to a level: thresholds that follow what is usual in a run, and hysteresis.

A run whose score is always a little high is not warned of all the time: its lower thresholds rise
with the running level of the score. CRITICAL stays where it is. A level rises at once; it falls
only after the score has been lower for some boundaries in a row.
"""

import math
from typing import Any

from esper_async.tamiyo.risk.levels import RiskLevel

BASE = {
    RiskLevel.YELLOW: 0.40,
    RiskLevel.ORANGE: 0.60,
    RiskLevel.RED: 0.80,
    RiskLevel.CRITICAL: 0.97,
}
CONSERVATIVE_FACTOR = 2.0 / 3.0
"""What conservative mode does to every threshold below CRITICAL: .6 becomes .4."""
WINDOWS = 3
"""Boundaries in a row with a lower score before a level falls."""
_MEMORY = 0.9
_QUIET = 0.25
"""A usual score up to this moves no threshold."""
_GIVE = 0.5


class Thresholds:
    """The level of a run's risk, boundary by boundary.

    Attributes:
        level: the one that holds now.
        held: whether it holds though the last score was lower.
    """

    def __init__(self) -> None:
        self.level = RiskLevel.GREEN
        self.held = False
        self._usual = 0.0
        self._lower = 0

    def of(self, level: RiskLevel, *, conservative: bool = False) -> float:
        """Return the score from which a level is reached now."""
        base = BASE[level]
        if level is RiskLevel.CRITICAL:
            return base
        raised = base + _GIVE * max(self._usual - _QUIET, 0.0) * (1.0 - base)
        return raised * CONSERVATIVE_FACTOR if conservative else raised

    def reached(self, score: float, *, conservative: bool = False) -> RiskLevel:
        """Return the level that a score alone comes to now; remembers nothing."""
        return max(
            (level for level in BASE if score >= self.of(level, conservative=conservative)),
            default=RiskLevel.GREEN,
        )

    def take(self, score: float, *, conservative: bool = False) -> RiskLevel:
        """Take in a boundary's score; return the level that holds now.

        Raises:
            ValueError: the score is not a number, which no threshold would stop.
        """
        if math.isnan(score):
            raise ValueError("a risk score that is not a number has no level")
        reached = self.reached(score, conservative=conservative)
        self._lower = 0 if reached >= self.level else self._lower + 1
        self.held = 0 < self._lower < WINDOWS
        if not self.held:
            self.level, self._lower = reached, 0
        if reached < RiskLevel.RED:  # what is out of the ordinary does not become usual
            self._usual = _MEMORY * self._usual + (1.0 - _MEMORY) * score
        return self.level

    def state_dict(self) -> dict[str, Any]:
        """Return level and counts."""
        return {"level": int(self.level), "usual": self._usual, "lower": self._lower}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.level = RiskLevel(state["level"])
        self._usual, self._lower = state["usual"], state["lower"]
