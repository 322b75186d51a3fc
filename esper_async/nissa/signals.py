"""What alert rules look at: one consistent view of runs, metrics, services and the disk."""

import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper_async.nissa.metrics import Sample, read
from esper_async.runtime.clock import Clock
from esper_async.runtime.metrics import Registry
from esper_async.tamiyo.hub import Hub

WINDOW_S = 300.0
_GAUGES = ("oona.queue.depth", "tezzeret.conservative_mode")
_COUNTERS = ("kasmina.isolation.violations",)


@dataclass(frozen=True, slots=True)
class Signals:
    """The state of things at one evaluation.

    `boundary_ms` holds each running run's latest boundary times, oldest first; `increases` how
    much a counter grew within the last five minutes; `disk_free` is a fraction from 0 to 1.
    """

    boundary_ms: Mapping[str, Sequence[float]]
    gauges: Mapping[str, Sequence[Sample]]
    increases: Mapping[str, float]
    services: Mapping[str, Mapping[str, Any]]
    disk_free: float | None


class SignalSource:
    """Gathers signals and remembers the counters' past."""

    def __init__(
        self,
        *,
        hub: Hub,
        registry: Registry,
        system: Any,
        resumes: Any,
        state_dir: Path,
        clock: Clock,
    ) -> None:
        self._hub = hub
        self._registry = registry
        self._system = system
        self._resumes = resumes
        self._state_dir = state_dir
        self._clock = clock
        self._past: dict[str, deque[tuple[float, float]]] = {}

    def gather(self) -> Signals:
        """Look at everything once. Cheap, but it asks the file system for free space."""
        found = read(self._registry, *_GAUGES, *_COUNTERS)
        counters = {name: sum(s.value for s in found.get(name, ())) for name in _COUNTERS}
        counters["resumes"] = float(self._resumes())
        return Signals(
            boundary_ms={
                picture.id: [row["boundary_ms"]["total"] for row in picture.rows[-3:]
                             if row["boundary_ms"]]
                for picture in self._hub.live()
                if picture.state == "running"
            },
            gauges={name: found[name] for name in _GAUGES if name in found},
            increases={name: self._increase(name, value) for name, value in counters.items()},
            services=self._system().get("services", {}),
            disk_free=self._disk_free(),
        )  # fmt: skip

    def _increase(self, name: str, value: float) -> float:
        now = self._clock.monotonic()
        past = self._past.setdefault(name, deque())
        past.append((now, value))
        while past[0][0] < now - WINDOW_S:
            past.popleft()
        return value - past[0][1]

    def _disk_free(self) -> float | None:
        try:
            usage = shutil.disk_usage(self._state_dir)
        except OSError:
            return None
        return usage.free / usage.total if usage.total else None
