"""Nissa's supervisor side: takes telemetry in, judges alerts, feeds the stream, stores events."""

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiohttp import web

from esper_async.nissa.access import Access
from esper_async.nissa.alert_rules import RULES
from esper_async.nissa.alerts import AlertBook
from esper_async.nissa.app import build_routes
from esper_async.nissa.context import NissaContext
from esper_async.nissa.event_store import Event, EventStore
from esper_async.nissa.ingest import Ingest
from esper_async.nissa.metrics import NissaMetrics
from esper_async.nissa.ports import (
    Blueprints,
    DeadLetterBox,
    Kernels,
    Policies,
    RunManager,
    SystemState,
    TelemetryBus,
)
from esper_async.nissa.rate_limit import RateLimit
from esper_async.nissa.signals import SignalSource
from esper_async.nissa.stream import Stream
from esper_async.nissa.teller import Teller
from esper_async.oona.errors import FAULTS
from esper_async.runtime.breaker import CircuitBreaker
from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.errors import BreakerOpen
from esper_async.runtime.metrics import Registry
from esper_async.tamiyo.hub import Hub

log = structlog.get_logger(__name__)
_BREAKER_NUMBERS = {"closed": 0, "open": 1, "half_open": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class NissaOptions:
    """Times in seconds; `changes_per_minute` is each client's."""

    event_retention_s: float = 7 * 86_400.0
    alert_every_s: float = 30.0
    flush_every_s: float = 0.25
    status_every_s: float = 1.0
    prune_every_s: float = 600.0
    changes_per_minute: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NissaParts:
    """What Nissa watches and hands requests to.

    `bus.consume` and `dead_letters()` raise RuntimeError while there is no bus; `mount` is the
    listener's: it serves routes for as long as the context is open.
    """

    hub: Hub
    runs: RunManager
    blueprints: Blueprints
    kernels: Kernels
    policies: Policies | None
    system: SystemState
    bus: TelemetryBus
    dead_letters: Callable[[], DeadLetterBox]
    mount: Callable[[Iterable[web.AbstractRouteDef]], AbstractContextManager[None]]


class NissaService:
    """The eyes as a service. It needs only the listener: with the bus away it still shows that."""

    name = "nissa"
    needs: tuple[str, ...] = ("http",)
    essential = True

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
        clock: Clock | None = None,
    ) -> None:
        self._options = options or NissaOptions()
        self._clock: Clock = clock or SystemClock()
        self._parts = parts
        metrics = NissaMetrics(registry)
        self._metrics = metrics
        self._disk = CircuitBreaker(
            "nissa.events",
            clock=self._clock,
            on_transition=lambda name, _old, new: metrics.breaker.set(
                _BREAKER_NUMBERS[new], breaker=name
            ),
        )
        per_minute = self._options.changes_per_minute
        self.context = NissaContext(
            hub=parts.hub,
            runs=parts.runs,
            blueprints=parts.blueprints,
            kernels=parts.kernels,
            policies=parts.policies,
            dead_letters=parts.dead_letters,
            events=EventStore(
                state_dir / "nissa" / "events.sqlite",
                retention_s=self._options.event_retention_s,
                clock=self._clock,
            ),
            alerts=AlertBook(RULES, clock=self._clock),
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
        self.teller = Teller(self.context, retention_s=self._options.event_retention_s)
        self._ingest = Ingest(
            registry=registry,
            metrics=metrics,
            events=self.context.events,
            on_event=self.teller.hear,
            clock=self._clock,
        )
        self._signals = SignalSource(
            hub=parts.hub,
            registry=registry,
            system=parts.system,
            resumes=lambda: sum(run.resumes for run in parts.runs.runs()),
            state_dir=state_dir,
            clock=self._clock,
        )

    def breakers(self) -> dict[str, str]:
        """The state of the breaker on the event store's disk."""
        return {self._disk.name: self._disk.state}

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
        stream.open()
        try:
            with self._parts.mount(build_routes(self.context)):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._every(self._options.flush_every_s, self._flush))
                    group.create_task(self._every(self._options.prune_every_s, self._prune))
                    group.create_task(self._every(self._options.alert_every_s, self._judge))
                    group.create_task(
                        self._every(self._options.status_every_s, self.teller.tell_status)
                    )
                    group.create_task(self.teller.follow_runs())
                    group.create_task(self._consume())
                    ready()
        finally:
            stream.close()
            await asyncio.to_thread(events.close)

    async def _consume(self) -> None:
        """Take telemetry from the bus; while there is none, ask again every second."""
        waiting = ""
        while True:
            try:
                await self._parts.bus.consume(
                    "telemetry", "nissa", self._ingest.handle,
                    consumer=f"nissa-{os.getpid()}", optional=True,
                )  # fmt: skip
            except (RuntimeError, BreakerOpen, *FAULTS) as error:
                if str(error) != waiting:
                    waiting = str(error)
                    log.info("telemetry_waits_for_the_bus", reason=waiting)
            await self._clock.sleep(1.0)

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._clock.sleep(seconds)
            await work()

    async def _flush(self) -> None:
        """Put waiting events on disk, and show them; a disk that refuses is tried again later."""
        self._metrics.events_waiting.set(self.context.events.waiting)
        self.teller.tell_events()
        if self.context.events.waiting and self._disk.retry_after_s == 0:
            try:
                await self._disk.call(asyncio.to_thread, self.context.events.flush)
            except sqlite3.Error as error:
                log.error(
                    "events_not_stored", error=str(error), waiting=self.context.events.waiting
                )

    async def _prune(self) -> None:
        try:
            while await asyncio.to_thread(self.context.events.prune):
                pass
        except sqlite3.Error as error:
            log.error("events_not_pruned", error=str(error))

    async def _judge(self) -> None:
        for alert in self.context.alerts.evaluate(self._signals.gather()):
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
        active = [alert.to_json() for alert in self.context.alerts.active()]
        self._metrics.alerts.set(len(active))
