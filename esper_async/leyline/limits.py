"""Every limit and budget that more than one part must agree on, checked at start-up."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

SCHEMA_VERSION = 1

_MEMORY_SHARES = MappingProxyType(
    {
        "model": 0.40,
        "optimizer": 0.25,
        "gradients": 0.15,
        "checkpoints": 0.08,
        "telemetry": 0.05,
        "growth": 0.05,
        "emergency": 0.02,
    }
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits with their units in the names. `check` raises when they contradict each other."""

    message_bytes: int = 256 * 1024
    seeds_per_epoch: int = 100
    retries: int = 3
    pause_quota: int = 10_000
    """Pauses a controller may ask for. Nobody reads it yet: Tamiyo's risk engine will (issue 6)."""
    candidates: int = 8
    recorded_choices: int = 8_192
    """Placements of the largest offer that a decision record carries: some 80 KiB."""
    nonce_lifetime_s: float = 300.0
    nonce_capacity: int = 100_000
    command_age_s: float = 60.0
    command_lead_s: float = 5.0
    queue_bound: int = 5_000
    queue_high_water: int = 4_000
    queue_low_water: int = 1_000
    telemetry_retention_s: float = 3_600.0
    boundary_ms: float = 18.0
    assembly_ms: float = 3.5
    decision_ms: float = 12.0
    apply_ms: float = 1.5
    guard_ms: float = 1.0
    memory_shares: Mapping[str, float] = field(default_factory=lambda: _MEMORY_SHARES)

    @property
    def boundary_budgets_ms(self) -> dict[str, float]:
        """Return what each part of a boundary may take, by its name in the boundary's record."""
        return {
            "assembly": self.assembly_ms,
            "decision": self.decision_ms,
            "apply": self.apply_ms,
            "guard": self.guard_ms,
            "total": self.boundary_ms,
        }

    def problems(self) -> list[str]:
        """Say everything that is inconsistent; empty when all is well."""
        found = []
        shares = math.fsum(self.memory_shares.values())
        if not shares <= 1.0 + 1e-9:
            found.append(f"memory shares sum to {shares:.3f}, more than the whole")
        found += [
            f"memory share of {name} is {share}, not within 0 to 1"
            for name, share in self.memory_shares.items()
            if not 0.0 <= share <= 1.0
        ]
        parts = self.assembly_ms + self.decision_ms + self.apply_ms + self.guard_ms
        if not parts <= self.boundary_ms:
            found.append(f"boundary parts take {parts} ms of a budget of {self.boundary_ms} ms")
        if not 0 < self.queue_low_water < self.queue_high_water < self.queue_bound:
            found.append("queue marks must rise: 0 < low water < high water < bound")
        if not self.command_age_s + self.command_lead_s <= self.nonce_lifetime_s:
            found.append("a nonce must outlive every command that could carry it")
        if not 1 <= self.candidates <= self.seeds_per_epoch:
            found.append("candidates must lie within 1 to the seeds of an epoch")
        return found

    def check(self) -> None:
        """Raise ValueError naming every inconsistency."""
        if found := self.problems():
            raise ValueError(
                f"limits contradict each other: {'; '.join(found)}; "
                "mend esper_async/leyline/limits.py"
            )


LIMITS = Limits()
