"""Nissa's own metrics, named once, and reading the values of anybody's."""

from dataclasses import dataclass

from esper_async.runtime.metrics import Registry, prometheus_name

Labels = tuple[tuple[str, str], ...]


class NissaMetrics:
    """What Nissa measures of itself."""

    def __init__(self, registry: Registry) -> None:
        self.ingest_latency = registry.histogram(
            "nissa.ingest.latency_ms", "Time to take in one telemetry packet"
        )
        self.packets = registry.counter("nissa.telemetry.packets", "Telemetry packets taken in")
        self.dropped = registry.counter(
            "nissa.telemetry.dropped", "Telemetry dropped, by reason", ["reason"]
        )
        self.refused = registry.counter(
            "nissa.requests.refused", "HTTP requests refused, by status code", ["code"]
        )
        self.requests = registry.histogram(
            "nissa.request.duration_ms", "Time to answer, by route", ["route"]
        )
        self.alerts = registry.gauge("nissa.alerts.active", "Alerts firing or acknowledged")
        self.readers = registry.gauge("nissa.stream.readers", "Open WebSocket streams")
        self.readers_dropped = registry.counter(
            "nissa.stream.readers_dropped", "Streams closed because their reader was too slow"
        )
        self.events_waiting = registry.gauge("nissa.events.waiting", "Events not yet on disk")
        self.breaker = registry.gauge(
            "nissa.breaker.state", "0 closed, 1 open, 2 half-open", ["breaker"]
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric in its exposed unit."""

    labels: Labels
    value: float


def read(registry: Registry, *names: str) -> dict[str, list[Sample]]:
    """Return the current values of gauges and counters by their telemetry names.

    A metric that nobody has registered, or that has no value yet, is not in the answer.
    """
    wanted = {prometheus_name(name, kind): name for name in names for kind in ("gauge", "counter")}
    found: dict[str, list[Sample]] = {}
    for family in registry.collectors.collect():
        for sample in family.samples:
            name = wanted.get(sample.name)
            if name is not None:
                labels = tuple(sorted(sample.labels.items()))
                found.setdefault(name, []).append(Sample(labels, sample.value))
    return found
