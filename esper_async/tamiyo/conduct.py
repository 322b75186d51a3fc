"""What a policy did at some boundaries, and whether that is worse than what another did there.

The same judgement serves before a policy takes over, beside the active one, and afterwards, against
what the one before it did. Torch-free: the training process counts, the supervisor judges.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from esper_async.tamiyo.percentile import percentile
from esper_async.tamiyo.risk.levels import RiskLevel

LATENCY_LIMIT_MS = 12.0
"""Of a decision, as of every policy's: what its thread computes, whoever else wants the core."""
SLOWER = 2.0
"""A policy over the limit is too slow where it takes so many times what the other took: a machine
that is busy slows down both."""
LATER = 2
"""Answers that came too late, more than the other's, make a policy too slow."""
MOST_RISK_RISE = 0.1
LEAST_LATENCIES, LEAST_RISKS = 10, 5
"""Boundaries before they are compared; what is illegal, or raised, is so at once."""
_SHARE = 0.9
_KEPT = 1_000


@dataclass(slots=True)
class Conduct:
    """Counts over the boundaries at which a policy was asked.

    `cpu_ms` is what its answers took of their thread, `late` counts those that did not come in
    time, `risks` are the scores of its commands, `level` is the highest that one came to, and
    `fault` says in words what first went wrong.
    """

    decisions: int = 0
    errors: int = 0
    illegal: int = 0
    late: int = 0
    cpu_ms: list[float] = field(default_factory=list)
    risks: list[float] = field(default_factory=list)
    level: str = ""
    fault: str = ""

    def add(
        self,
        *,
        cpu_ms: float,
        risk: tuple[float, RiskLevel],
        illegal: str | None = None,
    ) -> None:
        """Count a decision; `illegal` says why its command was none that may be given."""
        score, level = risk
        self.decisions += 1
        self.risks.append(score)
        self.level = max(level, RiskLevel[self.level or "GREEN"]).name
        self.cpu_ms.append(cpu_ms)
        if illegal is not None:
            self.illegal += 1
            self.fault = self.fault or illegal
        del self.cpu_ms[:-_KEPT], self.risks[:-_KEPT]

    def was_late(self) -> None:
        """Count a boundary at which the answer did not come in time."""
        self.decisions += 1
        self.late += 1

    def failed(self, words: str) -> None:
        """Count a boundary at which there was no decision, and say why."""
        self.decisions += 1
        self.errors += 1
        self.fault = self.fault or words

    def merge(self, other: "Conduct") -> None:
        """Add what was counted elsewhere."""
        self.decisions += other.decisions
        self.errors += other.errors
        self.illegal += other.illegal
        self.late += other.late
        self.cpu_ms = [*self.cpu_ms, *other.cpu_ms][-_KEPT:]
        self.risks = [*self.risks, *other.risks][-_KEPT:]
        self.fault = self.fault or other.fault
        worst = max(RiskLevel[each.level or "GREEN"] for each in (self, other))
        self.level = worst.name if self.level or other.level else ""

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Conduct":
        """Read back what `to_json` gave; in a journal, None stands for what is no number.

        Raises:
            TypeError: a field is unknown, or holds something else.
        """
        return cls(
            **{
                **told,
                "cpu_ms": _numbers(told["cpu_ms"]),
                "risks": _numbers(told["risks"]),
            }
        )


def faults(new: Conduct) -> list[str]:
    """Return what a policy must not do even once, and did; empty if it did nothing of it."""
    found = []
    if new.errors:
        found.append(f"it failed at {new.errors} of {new.decisions} boundaries: {new.fault}")
    if new.illegal:
        found.append(f"{new.illegal} of {new.decisions} commands were not legal: {new.fault}")
    return found


def slower(new: Conduct, old: Conduct) -> list[str]:
    """Return how much too slow one policy is beside another; empty if it is not."""
    if new.late >= old.late + LATER:
        return [f"{new.late} of {new.decisions} answers were late, {old.late} beside it"]
    if len(new.cpu_ms) < LEAST_LATENCIES:
        return []
    took = percentile(new.cpu_ms, _SHARE) or 0.0
    usual = percentile(old.cpu_ms, _SHARE)
    if took <= LATENCY_LIMIT_MS or (usual is not None and took <= SLOWER * usual):
        return []
    beside = "" if usual is None else f", {usual:.1f} ms beside it"
    return [f"a decision takes {took:.1f} ms{beside} (nine of ten are quicker)"]


def riskier(new: Conduct, old: Conduct) -> list[str]:
    """Return how much riskier one policy's commands are than another's; empty if they are not."""
    if len(new.risks) < LEAST_RISKS or not old.risks:
        return []
    rise = _mean(new.risks) - _mean(old.risks)
    if rise <= MOST_RISK_RISE:  # what is no number is none either
        return []
    return [f"the risk of its commands is {rise:.2f} above that of the other policy's"]


def regressions(new: Conduct, old: Conduct) -> list[str]:
    """Return in words why one policy may not take the place of another; empty if it may."""
    return [*faults(new), *slower(new, old), *riskier(new, old)]


def _numbers(told: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in told]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
