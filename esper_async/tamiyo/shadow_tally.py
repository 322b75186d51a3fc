"""What a staged policy did while it was asked beside the active one, and whether it may take over.

Torch-free: the supervisor judges, the training process counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from esper_async.tamiyo.percentile import percentile

LEAST_DECISIONS = 50
MOST_P99_MS = 12.0
MOST_RISK_RISE = 0.1
_KEPT = 1000


@dataclass(slots=True)
class ShadowTally:
    """Counts over the live states that a staged policy was asked about.

    `risks` and `active_risks` are the scores that the risk engine gave its commands and those of
    the active policy, on the same states.
    """

    decisions: int = 0
    errors: int = 0
    illegal: int = 0
    agreed: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    risks: list[float] = field(default_factory=list)
    active_risks: list[float] = field(default_factory=list)

    def add(
        self, *, latency_ms: float, legal: bool, agreed: bool, risk: float, active_risk: float
    ) -> None:
        """Count one decision."""
        self.decisions += 1
        self.illegal += not legal
        self.agreed += agreed
        for kept, value in (
            (self.latencies_ms, latency_ms),
            (self.risks, risk),
            (self.active_risks, active_risk),
        ):
            kept.append(value)
            del kept[:-_KEPT]

    def failed(self) -> None:
        """Count one state on which it raised."""
        self.decisions += 1
        self.errors += 1

    @property
    def complete(self) -> bool:
        """Whether there were states enough to judge it."""
        return self.decisions >= LEAST_DECISIONS

    def faults(self) -> list[str]:
        """Return why it may not take over; empty if it may."""
        found = []
        if not self.complete:
            found.append(f"asked about {self.decisions} states, {LEAST_DECISIONS} are needed")
        if self.errors:
            found.append(f"it raised on {self.errors} of {self.decisions} states")
        if self.illegal:
            found.append(f"{self.illegal} of its commands were not legal")
        slow = percentile(self.latencies_ms, 0.99)
        if slow is not None and slow > MOST_P99_MS:
            found.append(f"its decisions take {slow:.1f} ms at the 99th percentile")
        rise = _mean(self.risks) - _mean(self.active_risks)
        if rise > MOST_RISK_RISE:
            found.append(f"the risk of its commands is {rise:.2f} above the active policy's")
        return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
