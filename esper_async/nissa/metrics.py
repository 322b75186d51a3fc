"""Nissa's own metrics, named once, and reading the values of anybody's."""

from dataclasses import dataclass

from esper_async.runtime.metrics import Registry

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
        self.alerts_of = registry.gauge(
            "nissa.alerts.firing", "Alerts firing or acknowledged, by rule", ["rule"]
        )
        self.notices = registry.counter(
            "nissa.notifications", "Messages about alerts, by what came of them",
            ["channel", "result"],
        )  # fmt: skip
        self.notices_waiting = registry.gauge(
            "nissa.notifications.waiting", "Messages about alerts that wait for their channel"
        )
        self.notices_dead = registry.gauge(
            "nissa.notifications.dead", "Messages about alerts that no channel took"
        )
        self.slo_events = registry.counter(
            "nissa.slo.events", "Events that objectives judge, good and bad",
            ["service", "objective", "outcome"],
        )  # fmt: skip
        self.slo_target = registry.gauge(
            "nissa.slo.target", "Share of good events that an objective asks for, 0 to 1",
            ["service", "objective"],
        )  # fmt: skip
        self.ready = registry.gauge(
            "nissa.service.ready", "1 while a service is ready", ["service"]
        )
        self.children_lost = registry.counter(
            "nissa.children.lost", "Training processes that died and were started again"
        )
        self.disk_free = registry.gauge(
            "nissa.disk.free_ratio", "Free share of the state directory's disk, 0 to 1"
        )
        self.reports_wait = registry.gauge(
            "nissa.field_reports.wait_ms",
            "For how long what a run must not lose has waited on its disk, seconds", ["producer"],
        )  # fmt: skip
        self.events_dropped = registry.counter(
            "nissa.events.dropped", "Events that were not stored, by reason", ["reason"]
        )
        self.events_shipped = registry.counter(
            "nissa.events.shipped", "Events sent to Elasticsearch, by what came of them", ["result"]
        )
        self.history_refused = registry.gauge(
            "nissa.history.refused", "Series that the history had no room for"
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric in its exposed unit."""

    labels: Labels
    value: float
