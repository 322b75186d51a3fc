"""Error budgets: how much of what an objective allows is used up, and how fast it goes.

Good and bad events are counted in `nissa.slo.events`, whose past is in the metrics' history. An
objective's budget is the share of bad events it allows over thirty days. A burn rate of 1 uses it
up in exactly that time. The windows and factors of the two burn alerts, each over a long window
and a short one so that it ends soon after its cause, are those of Google's SRE workbook, chapter 5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esper_async.nissa.history import History
from esper_async.nissa.metrics import NissaMetrics
from esper_async.nissa.objectives import WINDOW_DAYS, Objective
from esper_async.nissa.reading import Reading
from esper_async.runtime.metrics import prometheus_name

EVENTS = "nissa.slo.events"
DAY_S = 86_400.0
BURN_WINDOWS_S = {
    "5m": 300.0, "30m": 1_800.0, "1h": 3_600.0, "6h": 21_600.0, "24h": DAY_S,
}  # fmt: skip
FAST = ("1h", "5m", 14.4)
SLOW = ("6h", "30m", 6.0)
MOST_BUDGET_A_DAY = 0.4
LEAST_EVENTS = {"5m": 5, "30m": 5, "1h": 100, "6h": 100, "24h": 100}
"""Fewer events than this say nothing about a rate: one bad look of ten is no fire. The short
windows only tell whether it still burns."""


@dataclass(frozen=True, slots=True)
class Budget:
    """An objective's account at one moment.

    `good` and `total` count events of thirty days, `expected` is how many there would be if the
    month had gone on like the last day; `burn` is the rate over each window, None where too few
    events happened; `spent_24h` is the share of the whole budget that went in a day.
    """

    objective: Objective
    good: float
    total: float
    expected: float
    burn: Mapping[str, float | None]
    spent_24h: float | None

    @property
    def ratio(self) -> float | None:
        """The share of good events, None where nothing has happened."""
        return self.good / self.total if self.total else None

    @property
    def left(self) -> float | None:
        """The share of the month's budget that is left, negative when it is overdrawn."""
        if not self.total:
            return None
        return 1.0 - (self.total - self.good) / (self.expected * (1.0 - self.objective.target))

    def burns(self, rule: tuple[str, str, float]) -> bool:
        """Whether both windows of a burn rule are over its factor."""
        long, short, factor = rule
        rates = self.burn[long], self.burn[short]
        return all(rate is not None and rate >= factor for rate in rates)

    def to_json(self) -> dict[str, Any]:
        """The account as the API shows it."""
        return {
            "name": self.objective.name,
            "service": self.objective.service,
            "kind": self.objective.kind,
            "text": self.objective.text,
            "target": self.objective.target,
            "window_days": WINDOW_DAYS,
            "events": self.total,
            "good_ratio": self.ratio,
            "budget_left": self.left,
            "burn": dict(self.burn),
            "spent_24h": self.spent_24h,
        }


class Accounts:
    """Counts good and bad events, and draws up the budgets."""

    def __init__(self, objectives: Sequence[Objective], *, metrics: NissaMetrics) -> None:
        self._objectives = tuple(objectives)
        self._events = metrics.slo_events
        self._seen: dict[str, tuple[float, float]] = {}
        for each in self._objectives:
            metrics.slo_target.set(each.target, service=each.service, objective=each.kind)

    def count(self, reading: Reading, services: Mapping[str, Mapping[str, Any]]) -> None:
        """Add what has happened since the last time."""
        for objective in self._objectives:
            if objective.measure is None:
                facts = services.get(objective.service)
                if facts is not None:
                    ready = facts.get("state") == "ready"
                    self._add(objective, 1.0 if ready else 0.0, 1.0)
                continue
            good, total = objective.measure(reading)
            good_before, total_before = self._seen.get(objective.name, (0.0, 0.0))
            self._seen[objective.name] = (good, total)
            if total > total_before:
                happened = total - total_before
                self._add(objective, min(happened, max(0.0, good - good_before)), happened)

    def _add(self, objective: Objective, good: float, total: float) -> None:
        for outcome, count in (("good", good), ("bad", total - good)):
            self._events.add(
                count, service=objective.service, objective=objective.kind, outcome=outcome
            )

    def budgets(self, history: History, now: float) -> list[Budget]:
        """Draw up every objective's account at Unix time `now`; blocks on the disk."""
        return [self._budget(objective, history, now) for objective in self._objectives]

    def _budget(self, objective: Objective, history: History, now: float) -> Budget:
        def happened(window_s: float) -> tuple[float, float]:
            bad, good = (
                history.increase(_NAME, _labels(objective, outcome), now - window_s)
                for outcome in ("bad", "good")
            )
            return bad, bad + good

        allowed = 1.0 - objective.target
        bad, total = happened(WINDOW_DAYS * DAY_S)
        counts = {name: happened(window_s) for name, window_s in BURN_WINDOWS_S.items()}
        burn = {
            name: bads / every / allowed if every >= LEAST_EVENTS[name] else None
            for name, (bads, every) in counts.items()
        }
        day_bad, day_total = counts["24h"]
        known = day_total >= LEAST_EVENTS["24h"]
        # a young installation is judged as if the month had gone on like its day
        expected = max(total, day_total * WINDOW_DAYS)
        spent = day_bad / (expected * allowed) if known else None
        return Budget(objective, total - bad, total, expected, burn, spent)


def _labels(objective: Objective, outcome: str) -> list[tuple[str, str]]:
    return [
        ("objective", objective.kind), ("outcome", outcome), ("service", objective.service),
    ]  # fmt: skip


_NAME = prometheus_name(EVENTS, "counter")
