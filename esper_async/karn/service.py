"""Karn's supervisor side: answers queries, and tallies what came of each blueprint."""

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import structlog
from google.protobuf.message import Message

from esper_async.karn.catalogue import Catalogue
from esper_async.karn.metrics import KarnMetrics
from esper_async.karn.record import BlueprintRecord
from esper_async.karn.selection import Selector
from esper_async.karn.tallies import Outcome, Tallies, Tally
from esper_async.leyline import EventEnvelope, FieldReport, FieldReportOutcome
from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.metrics import Registry

_log = structlog.get_logger("esper.karn")
_OUTCOMES: dict[int, Outcome] = {
    FieldReportOutcome.FIELD_REPORT_OUTCOME_SUCCESS: "success",
    FieldReportOutcome.FIELD_REPORT_OUTCOME_NEUTRAL: "neutral",
    FieldReportOutcome.FIELD_REPORT_OUTCOME_REGRESSION: "regression",
    FieldReportOutcome.FIELD_REPORT_OUTCOME_ABORTED: "aborted",
}


class ReportBus(Protocol):
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


class KarnService:
    """The catalogue as a service. Without a bus it answers queries and counts requests alone."""

    name = "karn"
    essential = False

    def __init__(
        self,
        state_dir: Path,
        *,
        metrics: Registry,
        bus: ReportBus | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._path = state_dir / "karn" / "tallies.sqlite"
        self._bus = bus
        self._metrics = KarnMetrics(metrics)
        self._clock = clock or SystemClock()
        self._catalogue = Catalogue()
        self._tallies: Tallies | None = None
        self._selector: Selector | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Oona, where there is a bus."""
        return () if self._bus is None else ("oona",)

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
            "implemented": sum(record.implemented for record in self.records),
            "conservative": self._selector is not None and self.selector.breaker.state != "closed",
        }

    def breakers(self) -> dict[str, str]:
        """Return the state of the tallies' breaker."""
        if self._selector is None:
            return {}
        return {self._selector.breaker.name: self._selector.breaker.state}

    async def run(self, ready: Callable[[], None]) -> None:
        """Open the tallies, then take in field reports until cancelled."""
        self._tallies = await asyncio.to_thread(Tallies, self._path)
        self._selector = Selector(self._catalogue, self._tallies, self._metrics, self._clock)
        ready()
        try:
            if self._bus is None:
                await asyncio.Event().wait()
            else:
                await self._bus.consume(
                    "field_reports", "karn", self._take, consumer=f"karn-{os.getpid()}",
                    optional=True,
                )  # fmt: skip
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
        await asyncio.to_thread(
            self.selector.count_outcome, message.report_id, message.blueprint_id, outcome
        )
