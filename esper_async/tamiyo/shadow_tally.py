"""What a staged policy did while it was asked beside the active one. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esper_async.tamiyo.conduct import Conduct, faults, regressions


@dataclass(slots=True)
class ShadowTally:
    """Counts over live states: `new` is the staged policy, `active` the one that decided there.

    `agreed` counts the states on which both gave the same command.
    """

    new: Conduct = field(default_factory=Conduct)
    active: Conduct = field(default_factory=Conduct)
    agreed: int = 0

    def settled(self, states: int) -> bool:
        """Whether it can be judged: it was asked about so many states, or has failed already."""
        return self.new.decisions >= states or bool(faults(self.new))

    def faults(self) -> list[str]:
        """Return why the staged policy may not take over; empty if it may."""
        return regressions(self.new, self.active)

    def merge(self, other: "ShadowTally") -> None:
        """Add what was counted in another run."""
        self.new.merge(other.new)
        self.active.merge(other.active)
        self.agreed += other.agreed

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {"new": self.new.to_json(), "active": self.active.to_json(), "agreed": self.agreed}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "ShadowTally":
        """Read back what `to_json` gave; raises as `Conduct.from_json` does."""
        return cls(
            Conduct.from_json(told["new"]), Conduct.from_json(told["active"]), int(told["agreed"])
        )
