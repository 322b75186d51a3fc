"""What alert rules look at: one consistent view of runs, metrics, services and the disk."""

import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper_async.nissa.metrics import Sample
from esper_async.nissa.reading import Reading, label_of
from esper_async.runtime.clock import Clock
from esper_async.runtime.metrics import prometheus_name
from esper_async.tamiyo.hub import Hub

if TYPE_CHECKING:
    from esper_async.nissa.alerts import Finding
    from esper_async.nissa.slo import Budget

WINDOW_S = 300.0
REPORT_OVERDUE_S = 300.0
_GAUGES = ("oona.queue.depth", "tezzeret.conservative_mode")
_COUNTERS = ("kasmina.isolation.violations",)
_SPOOLS = prometheus_name("oona.spool.depth")


@dataclass(frozen=True, slots=True)
class Signals:
    """The state of things at one evaluation.

    `boundary_ms` holds each running run's latest boundary times, oldest first; `increases` how
    much a counter grew within the last five minutes; `disk_free` is a fraction from 0 to 1;
    `spools_waiting_s` for how long what waits in a producer's spool has not become less; `told`
    what parts of the system have said themselves. `overdue_s` is how long a spool may wait.
    """

    boundary_ms: Mapping[str, Sequence[float]]
    gauges: Mapping[str, Sequence[Sample]]
    increases: Mapping[str, float]
    services: Mapping[str, Mapping[str, Any]]
    disk_free: float | None
    spools_waiting_s: Mapping[str, float]
    budgets: "Sequence[Budget]" = ()
    told: "Sequence[Finding]" = ()
    lost_now: float = 0.0
    overdue_s: float = REPORT_OVERDUE_S


class SignalSource:
    """Gathers signals and remembers the counters' past.

    `time_scale` shortens how far it looks back and how long a spool may wait, for drills.
    """

    def __init__(
        self,
        *,
        hub: Hub,
        system: Any,
        resumes: Callable[[], int],
        state_dir: Path,
        clock: Clock,
        time_scale: float = 1.0,
    ) -> None:
        self._hub = hub
        self._system = system
        self._resumes = resumes
        self._state_dir = state_dir
        self._clock = clock
        self._window_s = WINDOW_S * time_scale
        self._overdue_s = REPORT_OVERDUE_S * time_scale
        self._past: dict[str, deque[tuple[float, float]]] = {}
        self._spools: dict[str, tuple[float, float]] = {}
        self._resumed: float | None = None

    def gather(
        self,
        reading: Reading,
        *,
        budgets: "Sequence[Budget]" = (),
        told: "Sequence[Finding]" = (),
    ) -> Signals:
        """Look at everything once. Cheap, but it asks the file system for free space."""
        gauges = {name: reading.find(prometheus_name(name)) for name in _GAUGES}
        counters = {name: reading.total(prometheus_name(name, "counter")) for name in _COUNTERS}
        counters["resumes"] = float(self._resumes())
        before, self._resumed = self._resumed, counters["resumes"]
        return Signals(
            boundary_ms={
                picture.id: [row["boundary_ms"]["total"] for row in picture.rows[-3:]
                             if row["boundary_ms"]]
                for picture in self._hub.live()
                if picture.state == "running"
            },
            gauges={name: samples for name, samples in gauges.items() if samples},
            increases={name: self._increase(name, value) for name, value in counters.items()},
            services=self._system().get("services", {}),
            disk_free=self._disk_free(),
            spools_waiting_s=self._spools_waiting(reading),
            budgets=budgets,
            told=told,
            lost_now=0.0 if before is None else max(0.0, counters["resumes"] - before),
            overdue_s=self._overdue_s,
        )  # fmt: skip

    def _increase(self, name: str, value: float) -> float:
        now = self._clock.monotonic()
        past = self._past.setdefault(name, deque())
        past.append((now, value))
        while past[0][0] < now - self._window_s:
            past.popleft()
        return value - past[0][1]

    def _spools_waiting(self, reading: Reading) -> dict[str, float]:
        """For how long each spool that holds something has not shrunk, seconds."""
        now, waiting = self._clock.monotonic(), {}
        for sample in reading.find(_SPOOLS):
            producer = label_of(sample.labels, "producer")
            depth, since = self._spools.get(producer, (0.0, now))
            if sample.value < depth or depth == 0:
                since = now
            self._spools[producer] = (sample.value, since)
            if sample.value > 0:
                waiting[producer] = now - since
        return waiting

    def _disk_free(self) -> float | None:
        try:
            usage = shutil.disk_usage(self._state_dir)
        except OSError:
            return None
        return usage.free / usage.total if usage.total else None
