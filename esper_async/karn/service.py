"""Karn's supervisor side: answers queries, and tallies what became of each blueprint.

Queries come over HTTP (`select`) or the bus (`BlueprintQuery`, answered by descriptors). Every
kernel that a run asks the forge for is counted as a request for its blueprint.
"""

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

import anyio
import structlog
from google.protobuf.message import Message

from esper_async.karn.catalogue import Catalogue, Query
from esper_async.karn.costs import Certificates, certified_costs
from esper_async.karn.errors import KarnError, QueryRefusedError
from esper_async.karn.messages import descriptor_of, query_of
from esper_async.karn.metrics import KarnMetrics
from esper_async.karn.record import BlueprintRecord, Cost
from esper_async.karn.selection import Selection, Selector, breaker_of_the_disk
from esper_async.karn.tallies import Outcome, Tallies, Tally
from esper_async.leyline import (
    BlueprintQuery,
    EventEnvelope,
    FieldReport,
    FieldReportOutcome,
    KernelRequest,
)
from esper_async.runtime.breakers import Breakers
from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.errors import BreakerOpen
from esper_async.runtime.metrics import Registry

_log = structlog.get_logger("esper.karn")
_OUTCOMES: dict[int, Outcome] = {
    FieldReportOutcome.FIELD_REPORT_OUTCOME_SUCCESS: "success",
    FieldReportOutcome.FIELD_REPORT_OUTCOME_NEUTRAL: "neutral",
    FieldReportOutcome.FIELD_REPORT_OUTCOME_REGRESSION: "regression",
    FieldReportOutcome.FIELD_REPORT_OUTCOME_ABORTED: "aborted",
}


class KarnBus(Protocol):
    """What Karn needs of the bus."""

    async def consume(
        self,
        topic: str,
        group: str,
        handler: Callable[[Message, EventEnvelope], Awaitable[None]],
        *,
        consumer: str,
        optional: bool = False,
    ) -> None:
        """Hand messages to `handler` until cancelled; one that raises is delivered again."""
        ...

    async def publish_many(
        self, messages: Sequence[Message], *, correlation_id: str = ""
    ) -> list[str]:
        """Publish messages together, in order."""
        ...


class KarnService:
    """The catalogue as a service; without a bus it answers `select` alone.

    A query's budgets are judged by `certificates`; without them, by what the catalogue itself says
    of its reference interfaces.
    """

    name = "karn"

    def __init__(
        self,
        state_dir: Path,
        *,
        metrics: Registry,
        bus: KarnBus | None = None,
        certificates: Certificates | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._path = state_dir / "karn" / "tallies.sqlite"
        self._bus = bus
        self._certificates = certificates
        self._one_at_a_time = asyncio.Lock()
        self._metrics = KarnMetrics(metrics)
        self._clock = clock or SystemClock()
        self.breakers = Breakers("karn", registry=metrics, clock=self._clock)
        self._disk = breaker_of_the_disk(self.breakers, self._metrics)
        self._catalogue = Catalogue()
        self._tallies: Tallies | None = None
        self._selector: Selector | None = None

    @property
    def records(self) -> tuple[BlueprintRecord, ...]:
        """Every record in order of id; readable before the service has started."""
        return self._catalogue.records

    @property
    def selector(self) -> Selector:
        """Answers queries while the service runs.

        Raises:
            RuntimeError: it does not run.
        """
        if self._selector is None:
            raise RuntimeError("karn is not running; its catalogue can be read all the same")
        return self._selector

    async def select(self, query: Query) -> Selection:
        """Answer a query, by the costs that certificates have measured.

        Raises:
            RuntimeError: the service does not run.
        """
        selector, costs = self.selector, await self._costs(query)
        async with self._one_at_a_time:
            return await asyncio.to_thread(selector.select, query, costs=costs)

    async def _costs(self, query: Query) -> Mapping[str, Cost]:
        """Return what is known of costs at the query's interface; nothing where nobody asks."""
        if self._certificates is None or query.interface is None or not query.has_budget:
            return {}
        try:
            return await asyncio.to_thread(certified_costs, self._certificates, query.interface)
        except (OSError, sqlite3.Error, BreakerOpen) as error:
            _log.warning("karn_costs_unreadable", error=str(error))
            return {}

    async def tallies(self) -> dict[str, Tally] | None:
        """Return the counts of blueprints that have some; None where they cannot be read now."""
        tallies = self._tallies
        if tallies is None:
            return None
        with suppress(sqlite3.Error, OSError):
            return await asyncio.to_thread(tallies.read)
        return None

    def detail(self) -> dict[str, object]:
        """Return how many blueprints there are, and whether selection is cut back."""
        return {
            "blueprints": len(self.records),
            "conservative": self._disk.state != "closed",
        }

    async def run(self, ready: Callable[[], None]) -> None:
        """Open the tallies, then take in reports, requests and queries until cancelled."""
        self._tallies = await asyncio.to_thread(Tallies, self._path)
        self._selector = Selector(
            self._catalogue, self._tallies, self._metrics, self._clock, self._disk
        )
        ready()
        try:
            if self._bus is None:
                await asyncio.Event().wait()
            else:
                consume = partial(self._bus.consume, consumer=f"karn-{os.getpid()}", optional=True)
                async with anyio.create_task_group() as group:
                    group.start_soon(consume, "field_reports", "karn", self._take)
                    group.start_soon(consume, "kernel_requests", "karn", self._serve)
        finally:
            self._selector = None
            self._tallies = None

    async def _take(self, message: Message, _envelope: EventEnvelope) -> None:
        """Tally one field report, once however often it is delivered."""
        if not isinstance(message, FieldReport):
            _log.warning("karn_unexpected_message", type=message.DESCRIPTOR.name)
            return
        outcome = _OUTCOMES.get(message.outcome)
        if outcome is None or not message.blueprint_id:
            _log.info("karn_report_without_outcome", report=message.report_id)
            return
        async with self._one_at_a_time:
            await asyncio.to_thread(
                self.selector.count_outcome, message.report_id, message.blueprint_id, outcome
            )

    async def _serve(self, message: Message, _envelope: EventEnvelope) -> None:
        """Count a request for a kernel, or answer a query with the blueprints that meet it."""
        if isinstance(message, KernelRequest):
            await self._count(message)
        elif isinstance(message, BlueprintQuery):
            await self._answer(message)

    async def _count(self, request: KernelRequest) -> None:
        if not request.blueprint_id:
            return  # it asks which ones fit: a question for the forge
        selector = self.selector
        try:
            async with self._one_at_a_time:
                await asyncio.to_thread(
                    selector.request, request.blueprint_id, request_id=request.request_id
                )
        except KarnError as refusal:  # the forge tells whoever asked
            _log.warning("karn_request_refused", run=request.run_id, reason=str(refusal))

    async def _answer(self, message: BlueprintQuery) -> None:
        assert self._bus is not None, "who has no bus is asked nothing over it"
        try:
            selection = await self.select(query_of(message))
        except QueryRefusedError as refusal:
            _log.warning("karn_query_refused", query=message.query_id, reason=str(refusal))
            return
        described = [descriptor_of(record) for record in selection.records]
        await self._bus.publish_many(described, correlation_id=message.query_id)
