"""Tamiyo's supervisor side: the telemetry hub, and the desk for updates of policies.

The controller itself lives in the training process; here the live picture of its runs is kept, fed
from the bus and from the journals, and it is seen to which policies may decide in them. Records
come as telemetry events named `run.record`, each with its JSON in the field `record`. This module
never imports torch.
"""

import asyncio
import json
import math
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import structlog
from google.protobuf.message import Message

from esper_async.leyline import EventEnvelope, SystemStatePacket, TelemetryPacket
from esper_async.runtime.breakers import Breakers
from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.errors import BreakerOpen
from esper_async.runtime.metrics import Metric, Registry
from esper_async.tamiyo.hub import Hub
from esper_async.tamiyo.policy_desk import PolicyDesk
from esper_async.tamiyo.policy_intake import PolicyIntake, Withdraw
from esper_async.tamiyo.run_alerts import RunAlerts

log = structlog.get_logger(__name__)
RUN_RECORD = "run.record"
RECORD_FIELD = "record"


class StateBus(Protocol):
    """What the hub needs of the bus."""

    async def consume(
        self,
        topic: str,
        group: str,
        handler: Callable[[Message, EventEnvelope], Awaitable[None]],
        *,
        consumer: str,
        optional: bool = False,
    ) -> None:
        """Hand messages to `handler` until cancelled."""
        ...

    async def publish(self, message: Message) -> object:
        """Publish a message; raises what tells that the bus is away."""
        ...


def hub_metrics(registry: Registry) -> tuple[Metric, Metric]:
    """Return the hub's metrics: records taken, and records refused."""
    return (
        registry.counter("tamiyo.hub.records", "Run records taken from the bus"),
        registry.gauge("tamiyo.hub.malformed", "Run records that were refused"),
    )


class TamiyoService:
    """Keeps `hub` current while it runs; the hub can be read at any time."""

    name = "tamiyo"

    def __init__(
        self,
        state_dir: Path,
        bus: StateBus,
        *,
        desk: PolicyDesk | None = None,
        withdraw: Withdraw | None = None,
        registry: Registry | None = None,
        clock: Clock | None = None,
    ) -> None:
        clock = clock or SystemClock()
        registry = registry or Registry()
        self.breakers = Breakers("tamiyo", registry=registry, clock=clock)
        disk = self.breakers.make(
            "tamiyo.journals", is_failure=lambda error: isinstance(error, OSError)
        )
        self.hub = Hub(state_dir / "runs", disk=disk, clock=clock)
        self._bus = bus
        self._alerts = RunAlerts(self.hub, bus.publish, clock=clock)
        self._records, self._malformed = hub_metrics(registry)
        self._intake = None
        if desk is not None and withdraw is not None:
            self._intake = PolicyIntake(
                desk, self.hub, bus.publish, withdraw=withdraw, metrics=registry, clock=clock
            )

    def detail(self) -> dict[str, object]:
        """Return how many runs are known and how many records were refused."""
        return {
            "runs": len(self.hub.runs()),
            "live": len(self.hub.live()),
            "malformed_records": self.hub.malformed,
            "policies": {} if self._intake is None else dict(self._intake.desk.book.active),
        }

    async def run(self, ready: Callable[[], None]) -> None:
        """Read every run folder, then follow bus and journals until cancelled."""
        intake = self._intake
        if intake is not None:
            await intake.open()
        with self.hub.subscribe() as changes:
            await self.hub.rebuild()
            async with asyncio.TaskGroup() as group:
                if intake is not None:
                    group.create_task(intake.keep_folding(changes))
                    group.create_task(intake.keep_following())
                    group.create_task(
                        self._bus.consume(
                            "policy_updates", "tamiyo", intake.take, consumer="tamiyo"
                        )
                    )
                await self._follow(group, ready)

    async def _follow(self, group: asyncio.TaskGroup, ready: Callable[[], None]) -> None:
        consumer = f"tamiyo-{os.getpid()}"
        group.create_task(self.hub.watch_files())
        group.create_task(self._alerts.keep_telling())
        group.create_task(
            self._bus.consume("system_state", "tamiyo", self.take_state, consumer="tamiyo")
        )
        group.create_task(
            self._bus.consume(
                "telemetry", "tamiyo-hub", self.take_telemetry, consumer=consumer, optional=True
            )
        )
        ready()

    async def take_state(self, message: Message, _envelope: EventEnvelope) -> None:
        """Remember what a run's machine looks like."""
        if not isinstance(message, SystemStatePacket):
            log.warning("not_a_system_state", type=message.DESCRIPTOR.name)
            return
        self.hub.hardware[message.run_id] = {
            field.name: value for field, value in message.hardware.ListFields()
        }  # what was not measured is not in it

    async def take_telemetry(self, message: Message, _envelope: EventEnvelope) -> None:
        """Fold the run records in a packet. What is malformed is counted and never raises."""
        if not isinstance(message, TelemetryPacket):
            return
        for event in message.events:
            if event.name != RUN_RECORD:
                continue
            self._records.add()
            try:
                record = json.loads(
                    event.fields[RECORD_FIELD], parse_constant=_finite, parse_float=_finite
                )
            except (ValueError, RecursionError) as error:
                self.hub.malformed += 1
                log.error("run_record_malformed", run=message.run_id, reason=str(error))
                continue
            if isinstance(record, dict):
                await self._accept(record)
        self._malformed.set(self.hub.malformed)

    async def _accept(self, record: dict[str, object]) -> None:
        try:
            await self.hub.accept(record)
        except (OSError, BreakerOpen) as error:  # a later record has the gap filled, or the journal
            log.warning("run_record_waits_for_its_journal", run=record["run"], reason=str(error))


def _finite(text: str) -> float:
    """Read a number; raises ValueError for one that is not finite, as no journal holds it."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number of a run's record")
    return value
