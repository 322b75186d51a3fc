"""Metrics under their telemetry names, exposed by Prometheus's conventions.

`oona.publish.latency_ms` becomes `esper_oona_publish_latency_seconds` and takes milliseconds;
counters end in `_total`. The number of label combinations of one metric is bounded: past the bound
new ones come under the label value "other", and `runtime.labels.folded` counts how often.
"""

import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

Kind = Literal["counter", "gauge", "histogram"]
ObservationLog = deque[tuple[str, float, dict[str, str]]]
OTHER = "other"
FOLDED = "runtime.labels.folded"
DEFAULT_BUCKETS_S = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.018, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0,
)  # fmt: skip
_VALID = re.compile(r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$")


def prometheus_name(name: str, kind: Kind = "gauge") -> str:
    """Return the exposed name of a telemetry name; raises ValueError for a malformed one."""
    if not _VALID.match(name):
        raise ValueError(
            f"telemetry name {name!r} is not of the form 'subsystem.thing.quantity' in lower case"
        )
    flat = "esper_" + name.replace(".", "_")
    if flat.endswith("_ms"):
        flat = flat.removesuffix("_ms") + "_seconds"
    if kind == "counter" and not flat.endswith("_total"):
        flat += "_total"
    return flat


def exposed_value(name: str, value: float) -> float:
    """Convert a telemetry value to the exposed base unit: milliseconds to seconds."""
    return value / 1000.0 if name.endswith("_ms") else value


class BoundMetric:
    """One metric under one set of labels."""

    __slots__ = ("_add", "_labels", "_log", "_name", "_observe", "_scale", "_set")

    def __init__(
        self,
        name: str,
        inner: Counter | Gauge | Histogram,
        labels: Mapping[str, str],
        log: "ObservationLog | None",
    ) -> None:
        self._labels = labels
        self._log = log
        self._name = name
        self._add = None if isinstance(inner, Histogram) else inner.inc
        self._observe = inner.observe if isinstance(inner, Histogram) else None
        self._set = inner.set if isinstance(inner, Gauge) else None
        self._scale = exposed_value(name, 1.0)

    def add(self, value: float = 1.0) -> None:
        """Increase a counter or a gauge; raises TypeError for a histogram."""
        if self._add is None:
            raise TypeError(f"{self._name} is a histogram: observe it")
        self._add(value * self._scale)

    def set(self, value: float) -> None:
        """Set a gauge; raises TypeError for the other kinds."""
        if self._set is None:
            raise TypeError(f"{self._name} is not a gauge: it cannot be set")
        self._set(value * self._scale)

    def observe(self, value: float) -> None:
        """Add an observation to a histogram; raises TypeError for the other kinds."""
        if self._observe is None:
            raise TypeError(f"{self._name} is not a histogram: it cannot be observed")
        self._observe(value * self._scale)
        if self._log is not None:
            self._log.append((self._name, value, dict(self._labels)))


class Metric:
    """One metric; values go in by its telemetry unit (`_ms` in milliseconds). Thread-safe."""

    def __init__(
        self,
        name: str,
        inner: Counter | Gauge | Histogram,
        labels: Sequence[str],
        limit: int,
        log: "ObservationLog | None" = None,
        on_fold: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self.label_names = tuple(labels)
        self._log = log
        self._inner = inner
        self._limit = limit
        self._on_fold = on_fold
        self._seen: set[tuple[str, ...]] = set()
        self._lock = threading.Lock()

    def bound(self, **labels: str) -> "BoundMetric":
        """Return the metric under fixed labels, for a hot path: finding them costs most of it."""
        return BoundMetric(self.name, self._child(labels), labels, self._log)

    def add(self, value: float = 1.0, **labels: str) -> None:
        """Increase a counter or a gauge; raises TypeError for a histogram."""
        self.bound(**labels).add(value)

    def set(self, value: float, **labels: str) -> None:
        """Set a gauge; raises TypeError for the other kinds."""
        self.bound(**labels).set(value)

    def observe(self, value: float, **labels: str) -> None:
        """Add an observation to a histogram; raises TypeError for the other kinds."""
        self.bound(**labels).observe(value)

    def forget(self, **labels: str) -> int:
        """Remove the series with these label values; return how many.

        A metric that was bound to one of them before goes on unseen: it must be bound anew.
        """
        places = [(self.label_names.index(name), value) for name, value in labels.items()]
        with self._lock:
            gone = [key for key in self._seen if all(key[at] == value for at, value in places)]
            self._seen.difference_update(gone)
        for key in gone:
            self._inner.remove(*key)
        return len(gone)

    def values(self) -> list[tuple[tuple[tuple[str, str], ...], float]]:
        """Return (sorted labels, value) of each series of a counter or a gauge."""
        scale = exposed_value(self.name, 1.0)
        return [
            (tuple(sorted(sample.labels.items())), sample.value / scale)
            for family in self._inner.collect()
            for sample in family.samples
            if not sample.name.endswith("_created")
        ]

    def _child(self, labels: dict[str, str]) -> Counter | Gauge | Histogram:
        if set(labels) != set(self.label_names):
            raise ValueError(f"{self.name} has the labels {self.label_names}, not {tuple(labels)}")
        if not self.label_names:
            return self._inner
        key = tuple(str(labels[label]) for label in self.label_names)
        folded = False
        with self._lock:
            if key not in self._seen and len(self._seen) >= self._limit:
                folded, key = True, (OTHER,) * len(self.label_names)
            self._seen.add(key)
        if folded and self._on_fold is not None:
            self._on_fold(self.name)
        return self._inner.labels(*key)


class Registry:
    """The metrics of one process. Asking twice for the same name returns the same metric.

    With `observations_kept` the newest observations of its histograms are in `observations`, each
    (name, value in the telemetry unit, labels), for whoever tells them to another process.
    """

    def __init__(self, *, label_limit: int = 200, observations_kept: int = 0) -> None:
        self.observations: ObservationLog = deque(maxlen=observations_kept)
        self.collectors = CollectorRegistry(auto_describe=False)
        self._metrics: dict[str, tuple[Kind, Metric]] = {}
        self._label_limit = label_limit
        self._lock = threading.Lock()

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Metric:
        """Return a counter that only `add` changes."""
        return self._get(name, "counter", text, labels)

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Metric:
        """Return a gauge to `set` or `add` to."""
        return self._get(name, "gauge", text, labels)

    def histogram(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        buckets: Sequence[float] = DEFAULT_BUCKETS_S,
    ) -> Metric:
        """Return a histogram to `observe`; `buckets` in the exposed base unit."""
        return self._get(name, "histogram", text, labels, buckets)

    def names(self) -> list[str]:
        """Return the telemetry names of all metrics, in order of making."""
        with self._lock:
            return list(self._metrics)

    def find(self, name: str) -> Metric | None:
        """Return a metric that somebody has asked for before; None if nobody has."""
        with self._lock:
            known = self._metrics.get(name)
        return None if known is None else known[1]

    def kind_of(self, name: str) -> Kind | None:
        """Return what a metric is; None if it was never asked for."""
        with self._lock:
            known = self._metrics.get(name)
        return None if known is None else known[0]

    def values(self) -> list[tuple[str, Kind, tuple[tuple[str, str], ...], float]]:
        """Return (name, kind, sorted labels, value) of all counters and gauges.

        Values are in the unit of the telemetry name.
        """
        with self._lock:
            known = list(self._metrics.items())
        return [
            (name, kind, labels, value)
            for name, (kind, metric) in known
            if kind != "histogram"
            for labels, value in metric.values()
        ]

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Return the text of all metrics and its content type, OpenMetrics if `accept` asks."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.collectors), content_type

    def _folded(self, name: str) -> None:
        text = "Times that a metric was used past its bound of label values, under 'other'"
        self.counter(FOLDED, text, ["metric"]).add(metric=name)

    def _get(
        self,
        name: str,
        kind: Kind,
        text: str,
        labels: Sequence[str],
        buckets: Sequence[float] = DEFAULT_BUCKETS_S,
    ) -> Metric:
        with self._lock:
            known = self._metrics.get(name)
            if known is not None:
                if known[0] != kind:
                    raise ValueError(f"{name} is already registered as a {known[0]}, not a {kind}")
                return known[1]
            exposed = prometheus_name(name, kind)
            inner: Counter | Gauge | Histogram
            if kind == "counter":
                inner = Counter(exposed, text, labels, registry=self.collectors)
            elif kind == "gauge":
                inner = Gauge(exposed, text, labels, registry=self.collectors)
            else:
                inner = Histogram(
                    exposed, text, labels, registry=self.collectors, buckets=tuple(buckets)
                )
            log = self.observations if self.observations.maxlen else None
            tell = self._folded if name != FOLDED else None  # itself it would call without end
            metric = Metric(name, inner, labels, self._label_limit, log, tell)
            self._metrics[name] = (kind, metric)
            return metric
