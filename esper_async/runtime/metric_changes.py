"""What a registry's metrics have come to since they were last asked.

A child process tells its parent so: counters by what was added, gauges by what they show now,
histograms by the observations that the registry keeps.
"""

import contextlib
from typing import NamedTuple

from esper_async.runtime.metrics import Registry


class Change(NamedTuple):
    """An increase, a gauge's value or an observation, in the unit of its telemetry name."""

    name: str
    value: float
    labels: dict[str, str]


class MetricChanges:
    """Reads one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._told: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def pending(self) -> list[Change]:
        """Return what has changed since what was `told`."""
        changed = [
            Change(name, value - (before or 0.0) if kind == "counter" else value, dict(labels))
            for name, kind, labels, value in self._registry.values()
            if (before := self._told.get((name, labels))) != value and (value or before is not None)
        ]
        return changed + [Change(*each) for each in self._registry.observations.copy()]

    def told(self, changes: list[Change]) -> None:
        """Take in that these have reached somebody; the others will be told again."""
        kinds = {name: kind for name, kind, _, _ in self._registry.values()}
        for name, value, labels in changes:
            if name not in kinds:
                with contextlib.suppress(ValueError):  # pushed out by newer ones meanwhile
                    self._registry.observations.remove((name, value, labels))
                continue
            key = name, tuple(sorted(labels.items()))
            known = self._told.get(key, 0.0) if kinds[name] == "counter" else 0.0
            self._told[key] = known + value
