"""Taking in telemetry: points become metrics, events go to the event store, the rest is refused.

Everything is checked, since a packet may come from any child: names, finite values, number and
length of labels. How many series there can be is bounded three times: names nobody listed, label
names a metric, and label values a metric (the registry takes those past its bound under "other" and
counts them). The series of a seed end with it, those of a run some time after its end. A packet
that comes again, as a run tells some of its records again when it is resumed, counts once.
"""

import math
import re
from collections.abc import Callable, Mapping

import structlog
from google.protobuf.message import Message

from esper_async.leyline import EventEnvelope, TelemetryPacket
from esper_async.nissa.event_store import Event, EventStore, level_of
from esper_async.nissa.metrics import NissaMetrics
from esper_async.nissa.telemetry_names import CENSUS, KNOWN, ONE_AT_A_TIME, PER_SEED, kind_of
from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.metrics import Kind, Metric, Registry

log = structlog.get_logger(__name__)
Series = tuple[str, tuple[tuple[str, str], ...]]
RUN_RECORD = "run.record"
SHARED = "oona."
_LABELS = 8
_LABEL_NAME = re.compile(r"^[a-z][a-z0-9_]{0,30}$")
_LABEL_VALUE_LENGTH = 80
_UNLISTED_NAMES = 300
_PUTS_KEPT = 20_000
_PACKETS_KEPT = 10_000
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
        self._puts: dict[Series, Callable[[float], None]] = {}
        self._opened: dict[str, tuple[Metric, Kind, tuple[str, ...]]] = {}
        self._unlisted: set[str] = set()
        self._seeds: dict[str, set[str]] = {}
        self._current: dict[tuple[str, str], dict[str, str]] = {}
        self._taken: dict[str, None] = {}

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
        if self._is_known(packet.packet_id):
            return
        run, census, seeds = packet.run_id, False, set()
        for point in packet.points:
            labels = dict(point.labels)
            if run:
                labels.setdefault("run", run)
            if point.name in ONE_AT_A_TIME:
                self._succeed(point.name, labels)
            reason = self._measure(point.name, point.value, labels)
            if reason:
                self._drop(reason)
            census = census or point.name == CENSUS
            if point.name in PER_SEED:
                seeds.add(labels.get("seed", ""))
        if census and run:
            self._bury(run, seeds)
        for index, event in enumerate(packet.events):
            if event.name == RUN_RECORD:
                continue  # the hub's; it is in the run's journal
            self._store(packet, index)

    def forget_run(self, run: str) -> None:
        """Take the series of a run out of the exposition; its history stays where it is kept."""
        self._seeds.pop(run, None)
        self._current = {key: held for key, held in self._current.items() if key[1] != run}
        for metric, _, labels in self._opened.values():
            if "run" in labels:
                metric.forget(run=run)
        self._puts.clear()

    def _is_known(self, packet_id: str) -> bool:
        """Whether a packet has been taken in before; of very many the newest are remembered."""
        if packet_id in self._taken:
            return True
        if len(self._taken) >= _PACKETS_KEPT:
            del self._taken[next(iter(self._taken))]
        self._taken[packet_id] = None
        return False

    def _succeed(self, name: str, labels: dict[str, str]) -> None:
        """End the series of a run that another is about to take the place of."""
        key = name, labels.get("run", "")
        before = self._current.get(key)
        self._current[key] = labels
        if before not in (None, labels) and name in self._opened:
            metric = self._opened[name][0]
            if before.keys() == set(metric.label_names):
                metric.forget(**before)
                self._puts.clear()

    def _bury(self, run: str, seeds: set[str]) -> None:
        """End the gauges of seeds that a census of the network no longer names."""
        gone = self._seeds.get(run, set()) - seeds
        self._seeds[run] = seeds
        for seed in gone:
            for name in PER_SEED & self._opened.keys():
                self._opened[name][0].forget(run=run, seed=seed)
        if gone:
            self._puts.clear()

    def _measure(self, name: str, value: float, labels: dict[str, str]) -> str | None:
        """Give a value to its metric; return why not."""
        if not math.isfinite(value):
            return "not_finite"
        series = (name, tuple(sorted(labels.items())))
        put = self._puts.get(series)
        if put is None:
            found = self._find(name, labels)
            if isinstance(found, str):
                return found
            put = found
            if len(self._puts) >= _PUTS_KEPT:
                self._puts.clear()
            self._puts[series] = put
        try:
            put(value)
        except ValueError:
            return "value"
        return None

    def _find(self, name: str, labels: dict[str, str]) -> Callable[[float], None] | str:
        """Find what takes the values of a series, or say why nothing does."""
        if any(len(text) > _LABEL_VALUE_LENGTH for text in labels.values()):
            return "label_value"
        if name not in self._opened:
            refusal = self._open(name, labels)
            if refusal is not None:
                return refusal
        metric, kind, label_names = self._opened[name]
        if not labels.keys() <= set(label_names):
            return "label_name"
        try:
            bound = metric.bound(**{label: labels.get(label, "") for label in label_names})
        except ValueError:
            return "value"
        if kind == "counter":
            return bound.add
        return bound.observe if kind == "histogram" else bound.set

    def _open(self, name: str, labels: Mapping[str, str]) -> str | None:
        """Make the metric for a name seen for the first time, or say why it is refused."""
        kind = self._kind_of(name)
        if kind is None or len(name) > 100:
            return "name"
        if len(labels) > _LABELS or not all(_LABEL_NAME.match(label) for label in labels):
            return "label_name"
        known = KNOWN.get(name)
        own = self._registry.kind_of(name) is not None and not self._is_shared(name)
        if known is None and own:
            return "conflict"  # the supervisor's own figures are not for others to tell
        if known is None and not self._is_shared(name):
            if len(self._unlisted) >= _UNLISTED_NAMES:
                return "cardinality"
            self._unlisted.add(name)
        label_names = tuple(sorted(labels)) if known is None else known.labels
        try:
            metric = self._metric(name, *kind, label_names)
        except ValueError:
            return "conflict"
        log.debug("metric_opened", name=metric.name, kind=kind[0])
        self._opened[name] = (metric, kind[0], metric.label_names)
        return None

    def _is_shared(self, name: str) -> bool:
        return name.startswith(SHARED) and self._registry.kind_of(name) is not None

    def _kind_of(self, name: str) -> tuple[Kind, str] | None:
        """What a name is. The bus's metrics are the supervisor's, too: children add to those."""
        shared = self._registry.kind_of(name) if name.startswith(SHARED) else None
        return kind_of(name) if shared is None else (shared, "")

    def _metric(self, name: str, kind: str, text: str, labels: tuple[str, ...]) -> Metric:
        if kind == "counter":
            return self._registry.counter(name, text, labels)
        if kind == "histogram":
            return self._registry.histogram(name, text, labels)
        return self._registry.gauge(name, text, labels)

    def _store(self, packet: TelemetryPacket, index: int) -> None:
        told = packet.events[index]
        event = Event(
            uid=f"{packet.packet_id}/{index}",
            time=told.created_at if math.isfinite(told.created_at) else packet.created_at,
            level=level_of(told.level),
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
