"""Nissa's supervisor side: takes telemetry in, judges alerts, feeds the stream, stores events."""

import asyncio
import math
import os
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import structlog
from google.protobuf.message import Message

from esper_async.leyline import EventEnvelope
from esper_async.nissa.access import Access
from esper_async.nissa.alerts import Alert
from esper_async.nissa.app import build_routes
from esper_async.nissa.child_logs import ChildLogs
from esper_async.nissa.context import NissaContext
from esper_async.nissa.elastic import Elastic, ElasticOptions
from esper_async.nissa.event_store import Event, EventStore
from esper_async.nissa.ingest import Ingest
from esper_async.nissa.metrics import NissaMetrics
from esper_async.nissa.options import NissaOptions, NissaParts
from esper_async.nissa.own_logs import own_logs
from esper_async.nissa.past_metrics import FromPrometheus, RolledUp
from esper_async.nissa.rate_limit import RateLimit
from esper_async.nissa.stream import Stream
from esper_async.nissa.teller import Teller
from esper_async.nissa.watching import watch_of
from esper_async.oona.errors import FAULTS
from esper_async.runtime.breaker import BreakerPolicy
from esper_async.runtime.breakers import Breakers
from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.disk import DiskLevel
from esper_async.runtime.errors import BreakerOpen
from esper_async.runtime.metrics import Registry

__all__ = ["NissaOptions", "NissaParts", "NissaService"]

log = structlog.get_logger(__name__)
_SHOWN_AFTER_END_S = 900.0
_DISK_POLICY = BreakerPolicy(open_s=2.0)
"""A local disk is nobody's to spare, and an attempt costs one small transaction."""


class NissaService:
    """The eyes as a service. It needs only the listener: with the bus away it still shows that."""

    name = "nissa"

    def __init__(
        self,
        state_dir: Path,
        parts: NissaParts,
        *,
        token: str,
        registry: Registry,
        hosts: tuple[str, ...] = (),
        options: NissaOptions | None = None,
        versions: Mapping[str, str] | None = None,
        disk: Callable[[], DiskLevel] = lambda: "ok",
        clock: Clock | None = None,
    ) -> None:
        self._options = options or NissaOptions()
        self._clock: Clock = clock or SystemClock()
        self._parts = parts
        metrics = NissaMetrics(registry)
        self.metrics = metrics
        self.breakers = Breakers("nissa", registry=registry, clock=self._clock)
        self._disk = self.breakers.make("nissa.events", _DISK_POLICY)
        per_minute = self._options.changes_per_minute
        options = self._options
        self.watch = watch_of(
            state_dir,
            parts,
            registry=registry,
            metrics=metrics,
            options=options,
            clock=self._clock,
            on_alert=self._alert,
        )
        url = options.prometheus_url
        self.context = NissaContext(
            hub=parts.hub,
            runs=parts.runs,
            blueprints=parts.blueprints,
            kernels=parts.kernels,
            policies=parts.policies,
            dead_letters=parts.dead_letters,
            events=EventStore(
                state_dir / "nissa" / "events.sqlite",
                retention_s=options.event_retention_s,
                disk=disk,
                clock=self._clock,
            ),
            alerts=self.watch.alerts,
            outbox=self.watch.outbox,
            past=FromPrometheus(url) if url else RolledUp(self.watch.history),
            budgets=lambda: self.watch.budgets,
            stream=Stream(metrics),
            registry=registry,
            metrics=metrics,
            system=parts.system,
            access=Access(token, hosts=hosts),
            changes=RateLimit(per_minute, clock=self._clock),
            refusals=RateLimit(per_minute, clock=self._clock),
            clock=self._clock,
            started_at=self._clock.monotonic(),
            versions=dict(versions or {}),
        )
        self.teller = Teller(self.context, retention_s=options.event_retention_s)
        self._elastic = self._make_elastic(options) if options.elasticsearch_url else None
        self._logs = ChildLogs(state_dir, self.context.events)
        self._ended: dict[str, float] = {}
        self.ingest = Ingest(
            registry=registry,
            metrics=metrics,
            events=self.context.events,
            on_event=self.teller.hear,
            clock=self._clock,
        )

    def _make_elastic(self, options: NissaOptions) -> Elastic:
        return Elastic(
            ElasticOptions(
                url=options.elasticsearch_url,
                api_key=options.elasticsearch_api_key,
                stream=options.elasticsearch_stream,
                retention_s=options.event_retention_s,
            ),
            self.context.events,
            metrics=self.metrics,
            clock=self._clock,
        )

    def detail(self) -> dict[str, object]:
        """Open streams, active alerts and events that wait for the disk."""
        return {
            "streams": len(self.context.stream),
            "alerts": len(self.context.alerts.active()),
            "events_waiting": self.context.events.waiting,
        }

    async def run(self, ready: Callable[[], None]) -> None:
        """Open the store, serve, and run the loops until cancelled; then end every stream."""
        events, stream = self.context.events, self.context.stream
        await asyncio.to_thread(events.open)
        await asyncio.to_thread(self.watch.open)
        stream.open()
        try:
            with (
                own_logs(self.teller.note, self._clock),
                self._parts.mount(build_routes(self.context)),
            ):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._every(self._options.flush_every_s, self._flush))
                    group.create_task(self._every(self._options.prune_every_s, self._prune))
                    group.create_task(self._every(self._options.alert_every_s, self.watch.judge))
                    group.create_task(
                        self._every(self._options.deliver_every_s, self.watch.deliver)
                    )
                    group.create_task(
                        self._every(self._options.status_every_s, self.teller.tell_status)
                    )
                    group.create_task(self.teller.follow_runs())
                    group.create_task(self._consume("telemetry", self.ingest.handle, optional=True))
                    group.create_task(self._consume("alerts", self.watch.told.handle))
                    group.create_task(self._every(self._options.logs_every_s, self._read_logs))
                    if self._elastic is not None:
                        group.create_task(self._elastic.run())
                    ready()
        finally:
            stream.close()
            await asyncio.to_thread(self.watch.close)
            await asyncio.to_thread(events.close)

    async def _consume(
        self,
        topic: str,
        handle: Callable[[Message, EventEnvelope], Awaitable[None]],
        *,
        optional: bool = False,
    ) -> None:
        """Take messages from the bus; while there is none, ask again every second."""
        waiting = ""
        while True:
            try:
                await self._parts.bus.consume(
                    topic, "nissa", handle, consumer=f"nissa-{os.getpid()}", optional=optional
                )
            except (RuntimeError, BreakerOpen, *FAULTS) as error:
                if str(error) != waiting:
                    waiting = str(error)
                    log.info("nissa_waits_for_the_bus", topic=topic, reason=waiting)
            await self._clock.sleep(1.0)

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._clock.sleep(seconds)
            await work()

    async def _flush(self) -> None:
        """Put waiting events on disk, and show them; a disk that refuses is tried again later."""
        self.metrics.events_waiting.set(self.context.events.waiting)
        if self.context.events.waiting and self._disk.retry_after_s == 0:
            try:
                await self._disk.call(asyncio.to_thread, self.context.events.flush)
            except sqlite3.Error as error:
                log.error(
                    "events_not_stored", error=str(error), waiting=self.context.events.waiting
                )
        self.teller.tell_events()  # once they can be found: a page may search again

    async def _read_logs(self) -> None:
        """Take in what children have written; a disk that refuses is tried later."""
        before = self._logs.dropped
        try:
            for event in await asyncio.to_thread(self._logs.read, self._clock.time()):
                self.teller.note(event)
        except sqlite3.Error as error:
            log.error("logs_not_read", error=str(error))
        self.metrics.events_dropped.add(self._logs.dropped - before, reason="log_flood")

    async def _prune(self) -> None:
        self._forget_ended_runs()
        try:
            while await asyncio.to_thread(self.context.events.prune):
                pass
        except sqlite3.Error as error:
            log.error("events_not_pruned", error=str(error))

    def _forget_ended_runs(self) -> None:
        """Take series out of the exposition once every scraper has seen how their run ended."""
        now = self._clock.monotonic()
        for run in self._parts.runs.runs():
            if not run.ended:
                self._ended.pop(run.id, None)
            elif now - self._ended.setdefault(run.id, now) >= _SHOWN_AFTER_END_S:
                self.ingest.forget_run(run.id)
                self._ended[run.id] = math.inf

    def _alert(self, alert: Alert) -> None:
        """Make an event of an alert that began or ended."""
        log.warning("alert", name=alert.name, state=alert.state, summary=alert.summary)
        self.teller.note(
            Event(
                uid=f"{alert.id}/{alert.state}",
                time=self._clock.time(),
                level=alert.level if alert.state == "firing" else "info",
                source="nissa",
                name=f"alert.{alert.state}",
                message=alert.summary,
                fields={"alert": alert.name, "labels": alert.labels},
            )
        )
