"""Taking in telemetry: points become metrics, events go to the event store, the rest is refused.

Everything is checked, since a packet may come from any child: names, finite values, number and
length of labels. How many series there can be is bounded three times: names nobody listed, label
names a metric, and label values a metric (the registry counts those past its bound as "other").
"""

import math
import re
from collections.abc import Callable, Mapping

import structlog
from google.protobuf.message import Message

from esper_async.leyline import EventEnvelope, TelemetryLevel, TelemetryPacket, short_name
from esper_async.nissa.event_store import LEVELS, Event, EventStore
from esper_async.nissa.metrics import NissaMetrics
from esper_async.nissa.telemetry_names import KNOWN, kind_of
from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.metrics import Kind, Metric, Registry

log = structlog.get_logger(__name__)
RUN_RECORD = "run.record"
SHARED = "oona."
_LABELS = 8
_LABEL_NAME = re.compile(r"^[a-z][a-z0-9_]{0,30}$")
_LABEL_VALUE_LENGTH = 80
_UNLISTED_NAMES = 300
_TEXT = 2_000


class Ingest:
    """Takes packets in. `on_event` is told each event that was stored."""

    def __init__(
        self,
        *,
        registry: Registry,
        metrics: NissaMetrics,
        events: EventStore,
        on_event: Callable[[Event], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._events = events
        self._on_event = on_event
        self._clock = clock or SystemClock()
        self._known: dict[tuple[str, tuple[str, ...]], Callable[..., None]] = {}
        self._label_names: dict[str, tuple[str, ...]] = {}
        self._unlisted: set[str] = set()

    async def handle(self, message: Message, _envelope: EventEnvelope) -> None:
        """Take one packet from the bus. Nothing in it can make this raise."""
        if not isinstance(message, TelemetryPacket):
            self._drop("not_telemetry")
            return
        started = self._clock.monotonic()
        self.take(message)
        self._metrics.ingest_latency.observe((self._clock.monotonic() - started) * 1000.0)

    def take(self, packet: TelemetryPacket) -> None:
        """Take one packet in, point by point: what is wrong with one does not touch the others."""
        self._metrics.packets.add()
        for point in packet.points:
            labels = dict(point.labels)
            if packet.run_id:
                labels.setdefault("run", packet.run_id)
            reason = self._measure(point.name, point.value, labels)
            if reason:
                self._drop(reason)
        for index, event in enumerate(packet.events):
            if event.name == RUN_RECORD:
                continue  # the hub's; it is in the run's journal
            self._store(packet, index)

    def _measure(self, name: str, value: float, labels: Mapping[str, str]) -> str | None:
        """Give a value to its metric; return why not."""
        if not math.isfinite(value):
            return "not_finite"
        put = self._known.get((name, tuple(sorted(labels))))
        if put is None:
            found = self._open(name, labels)
            if isinstance(found, str):
                return found
            put = found
        if any(len(text) > _LABEL_VALUE_LENGTH for text in labels.values()):
            return "label_value"
        try:
            put(value, **labels)
        except ValueError:
            return "value"
        return None

    def _open(self, name: str, labels: Mapping[str, str]) -> Callable[..., None] | str:
        """Make the metric for a name seen for the first time, or say why it is refused."""
        kind = self._kind_of(name)
        if kind is None or len(name) > 100:
            return "name"
        if len(labels) > _LABELS or not all(_LABEL_NAME.match(label) for label in labels):
            return "label_name"
        label_names = tuple(sorted(labels))
        if self._label_names.setdefault(name, label_names) != label_names:
            return "label_name"
        if name not in KNOWN:
            if len(self._unlisted) >= _UNLISTED_NAMES and name not in self._unlisted:
                del self._label_names[name]
                return "cardinality"
            self._unlisted.add(name)
        try:
            metric, put = self._metric(name, *kind, label_names)
        except ValueError:
            return "conflict"
        log.debug("metric_opened", name=metric.name, kind=kind[0])
        self._known[(name, label_names)] = put
        return put

    def _kind_of(self, name: str) -> tuple[Kind, str] | None:
        """What a name is. The bus's metrics are the supervisor's, too: children add to those."""
        shared = self._registry.kind_of(name) if name.startswith(SHARED) else None
        return kind_of(name) if shared is None else (shared, "")

    def _metric(
        self, name: str, kind: str, text: str, labels: tuple[str, ...]
    ) -> tuple[Metric, Callable[..., None]]:
        if kind == "counter":
            counter = self._registry.counter(name, text, labels)
            return counter, counter.add
        if kind == "histogram":
            histogram = self._registry.histogram(name, text, labels)
            return histogram, histogram.observe
        gauge = self._registry.gauge(name, text, labels)
        return gauge, gauge.set

    def _store(self, packet: TelemetryPacket, index: int) -> None:
        told = packet.events[index]
        level = short_name(TelemetryLevel, told.level).lower()
        event = Event(
            uid=f"{packet.packet_id}/{index}",
            time=told.created_at if math.isfinite(told.created_at) else packet.created_at,
            level=level if level in LEVELS else "info",
            source=packet.source[:100],
            name=told.name[:100],
            message=told.message[:_TEXT],
            run=packet.run_id[:100],
            fields={key[:100]: text[:_TEXT] for key, text in list(told.fields.items())[:64]},
        )
        if not self._events.add(event):
            self._drop("events_full")
        elif self._on_event is not None:
            self._on_event(event)

    def _drop(self, reason: str) -> None:
        self._metrics.dropped.add(reason=reason)
