"""A child process's way to the bus: a thread of its own, so that Redis never pauses training.

`offer` takes what may be dropped and never waits; `spool` takes what may not and returns when it
is on disk. The thread publishes both. What is durable and not yet acknowledged when the bridge
closes, or dies, stays in the spool directory for its next owner.
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from google.protobuf.message import Message

from esper_async.leyline.envelope import event_id_of, wrap
from esper_async.leyline.errors import Refused
from esper_async.leyline.limits import SCHEMA_VERSION
from esper_async.leyline.registry import TOPICS, PayloadSpec, spec_of
from esper_async.leyline.signing import Signer
from esper_async.leyline.v1.enums_pb2 import TELEMETRY_LEVEL_INFO, MessagePriority
from esper_async.leyline.v1.envelope_pb2 import EventEnvelope
from esper_async.leyline.v1.telemetry_pb2 import TelemetryPacket
from esper_async.leyline.validation import validate
from esper_async.oona.bus import Bus
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.outbox import Outbox, Parcel, label_of
from esper_async.oona.pump import Pump
from esper_async.oona.sequence import Numbering
from esper_async.oona.settings import BusSettings
from esper_async.oona.spool import Spool, SpoolEntry
from esper_async.oona.streams import lane_for
from esper_async.runtime.metric_changes import MetricChanges
from esper_async.runtime.metrics import Registry

_LOG = structlog.get_logger(__name__)
_POLL_S = 0.01
_JOIN_MARGIN_S = 2.0
_LAST_WORD_S = 0.5
STALLED_S = 10.0
"""A queue from which nothing has left for so long is stalled."""
_LATENCIES_KEPT = 500
"""Of five seconds; with its labels one takes some 60 bytes of a packet of at most 256 KiB."""

Callback = Callable[[Any, EventEnvelope], None]


@dataclass(frozen=True, slots=True)
class BridgeReport:
    """What became of everything the bridge was given; `clean` when nothing is left or lost."""

    offered: int
    published: int
    dropped: dict[str, int]
    spooled: int
    unacknowledged: int
    error: str

    @property
    def clean(self) -> bool:
        """Whether nothing was dropped, all is acknowledged and the thread was well."""
        return not (self.dropped or self.unacknowledged or self.error)


class Bridge:
    """One child's bridge; its methods may be called from any thread of the child.

    `key` is Leyline's signing key, or a signer that accepts older ones, too; `producer` the source
    in every envelope. Raises SpoolBusy when
    another process owns the spool.
    """

    def __init__(
        self,
        redis_url: str,
        spool_dir: Path,
        key: bytes | Signer,
        producer: str,
        *,
        settings: BusSettings | None = None,
        queue_entries: int = 4_096,
        queue_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self._url = redis_url
        self._signer = key if isinstance(key, Signer) else Signer(key)
        self._producer = producer
        self._settings = settings or BusSettings(drain_s=1.0)
        self._spool = Spool(spool_dir)
        self.metrics = BusMetrics(Registry(observations_kept=_LATENCIES_KEPT))
        self._changes = MetricChanges(self.metrics.registry)
        self._own = Numbering()
        self._outbox = Outbox(entries_limit=queue_entries, bytes_limit=queue_bytes)
        self._pump = Pump(redis_url, self._outbox, settings=self._settings, metrics=self.metrics)
        self._guard = threading.Lock()
        self._direct = Numbering()
        self._spooling = threading.Lock()
        self._lasting = Numbering()
        self._spooled = 0
        self._subscriptions: list[tuple[str, str, Callback]] = []
        self._on_carried: Callable[[SpoolEntry], None] | None = None
        self._thread = threading.Thread(target=self._run, name="oona-bridge", daemon=True)
        self._running = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._bus: Bus | None = None
        self._error = ""
        self._report: BridgeReport | None = None

    def start(self) -> "Bridge":
        """Start the thread; Redis need not be there. Returns the bridge."""
        self._thread.start()
        self._running.wait()
        return self

    def subscribe(self, topic: str, group: str, callback: Callback) -> None:
        """Have `callback(message, envelope)` called in the bridge's thread; say so before `start`.

        Raises RuntimeError afterwards.
        """
        if self._thread.ident is not None:
            raise RuntimeError("subscribe before start")
        self._subscriptions.append((topic, group, callback))

    def watch_spool(self, callback: Callable[[SpoolEntry], None]) -> None:
        """Have `callback` told, in the bridge's thread, what Redis has taken; before `start`.

        Raises RuntimeError afterwards.
        """
        if self._thread.ident is not None:
            raise RuntimeError("watch the spool before start")
        self._on_carried = callback

    def offer(self, message: Message, *, priority: MessagePriority.ValueType | None = None) -> bool:
        """Queue a message that may be dropped; False when it was, counted. Never waits.

        Raises Refused for a message that must not be published, ValueError for a durable one.
        """
        spec = spec_of(message)
        validate(message, spec)
        if spec.durable:
            raise ValueError(f"{spec.name} must not be lost: hand it to `spool`")
        chosen = spec.priority if priority is None else priority
        topic = spec.topic.name
        stream = lane_for(topic, chosen)
        event_id = event_id_of(message, spec)
        with self._guard, self._direct.given_back_on(Refused):
            wire = self._wrap(message, spec, event_id, chosen, self._direct)
            accepted = self._outbox.put(Parcel(stream, topic, chosen, wire))
            if not accepted:
                self._direct.give_back(stream)
                self.metrics.dropped.add(priority=label_of(chosen), reason="outbox")
        if accepted and not self._pump.awake:
            self._in_thread(self._pump.wake)
        return accepted

    def spool(self, message: Message, *, priority: MessagePriority.ValueType | None = None) -> None:
        """Write a message that must not be lost to disk, fsync, then have it published.

        The same message again (by its identity) waits once. Raises Refused for a message that
        must not be published, ValueError for one that is not durable, RuntimeError after `close`,
        sqlite3.Error when the disk fails.
        """
        spec = spec_of(message)
        validate(message, spec)
        if not spec.durable:
            raise ValueError(f"{spec.name} may be dropped: hand it to `offer`")
        if self._report is not None:
            raise RuntimeError("the bridge is closed")
        chosen = spec.priority if priority is None else priority
        topic = spec.topic.name
        stream = lane_for(topic, chosen)
        event_id = event_id_of(message, spec)
        with self._spooling, self._lasting.given_back_on(Refused, sqlite3.Error):
            wire = self._wrap(message, spec, event_id, chosen, self._lasting)
            if not self._spool.append(event_id=event_id, stream=stream, topic=topic, wire=wire):
                self._lasting.give_back(stream)
            self._spooled += 1
        if self._bus is not None:
            self._in_thread(self._bus.wake_courier)

    @property
    def backlog(self) -> float:
        """How far the bus is behind, 0 to 1: how full the queue is, or how long nothing has left.

        It is 1 when the queue is full, or has not moved for `STALLED_S` seconds.
        """
        return min(max(self._outbox.full, self._outbox.unmoved_s / STALLED_S), 1.0)

    def close(self, deadline_s: float = 5.0) -> BridgeReport:
        """Take nothing more, drain, end the thread, and report. Idempotent.

        Draining means that the queue is published and the spool acknowledged, within
        `deadline_s`; what is still in the spool then stays on disk.
        """
        if self._report is not None:
            return self._report
        self._outbox.shut()
        give_up = time.monotonic() + deadline_s
        while self._thread.is_alive() and time.monotonic() < give_up:
            if not len(self._outbox) and not len(self._spool):
                break
            self._thread.join(_POLL_S)
        if self._thread.ident is not None:
            self._in_thread(self._stop.set)
            self._thread.join(max(0.0, give_up - time.monotonic()) + _JOIN_MARGIN_S)
            if self._thread.is_alive():
                self._error = self._error or "the bridge's thread did not end in time"
        self._outbox.abandon()
        self._report = BridgeReport(
            offered=self._outbox.offered,
            published=self._outbox.sent,
            dropped=dict(self._outbox.dropped),
            spooled=self._spooled,
            unacknowledged=len(self._spool),
            error=self._error,
        )
        self._spool.close()
        return self._report

    def _wrap(
        self,
        message: Message,
        spec: PayloadSpec,
        event_id: str,
        priority: MessagePriority.ValueType,
        numbering: Numbering,
    ) -> bytes:
        return wrap(
            message,
            source=self._producer,
            signer=self._signer,
            priority=priority,
            event_id=event_id,
            time_to_live_ms=spec.topic.time_to_live_ms,
            incarnation=numbering.incarnation,
            sequence=numbering.take(lane_for(spec.topic.name, priority)),
        )

    def _in_thread(self, action: Callable[[], None]) -> None:
        """Have `action` done by the bridge's loop, if that still runs."""
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(action)
            except RuntimeError:
                _LOG.debug("bridge_loop_has_ended")

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:  # noqa: BLE001 - reported by `close`; training goes on
            _LOG.exception("bridge_failed", producer=self._producer)
            self._error = repr(error)
            self._outbox.shut()
        finally:
            self._running.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        bus = Bus(
            self._url,
            signer=self._signer,
            source=self._producer,
            spool=self._spool,
            settings=self._settings,
            metrics=self.metrics,
            on_carried=self._on_carried,
        )
        async with bus, asyncio.TaskGroup() as tasks:
            self._bus = bus
            self._running.set()
            work = [tasks.create_task(self._pump.run()), tasks.create_task(self._keep_telling())]
            work += [tasks.create_task(self._listen(bus, *each)) for each in self._subscriptions]
            await self._stop.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORD_S):
                    await self._tell_changes()
            for task in work:
                task.cancel()

    async def _listen(self, bus: Bus, topic: str, group: str, callback: Callback) -> None:
        async def handler(message: Any, envelope: EventEnvelope) -> None:
            callback(message, envelope)

        optional = group not in TOPICS[topic].required_groups
        await bus.consume(topic, group, handler, consumer=self._producer, optional=optional)

    async def _keep_telling(self) -> None:
        while True:
            await asyncio.sleep(self._settings.metrics_every_s)
            await self._tell_changes()

    async def _tell_changes(self) -> None:
        """Send what the metrics have come to, for the supervisor's own; again if it was lost."""
        changes = self._changes.pending()
        if not changes:
            return
        packet = TelemetryPacket(
            version=SCHEMA_VERSION,
            packet_id=f"{self._producer}/bus/{uuid.uuid4().hex}",
            created_at=time.time(),
            source=self._producer,
            level=TELEMETRY_LEVEL_INFO,
        )
        for name, value, labels in changes:
            packet.points.add(name=name, value=value, labels=labels)
        spec = spec_of(packet)
        topic, priority = spec.topic.name, spec.priority
        wire = self._wrap(packet, spec, event_id_of(packet, spec), priority, self._own)
        if await self._pump.send_beside(Parcel(lane_for(topic, priority), topic, priority, wire)):
            self._changes.told(changes)
