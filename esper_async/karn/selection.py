"""Selection: a query answered, counted, and cut back to the simplest when something is wrong."""

import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from esper_async.karn.catalogue import Catalogue, Query
from esper_async.karn.metrics import KarnMetrics
from esper_async.karn.record import BlueprintRecord, Cost
from esper_async.karn.tallies import Outcome, Tallies
from esper_async.runtime.breaker import BreakerPolicy, CircuitBreaker
from esper_async.runtime.breakers import Breakers
from esper_async.runtime.clock import Clock
from esper_async.runtime.errors import BreakerOpen


@dataclass(frozen=True, slots=True)
class Selection:
    """The answer to a query. `conservative` says why it was cut back; None when it was not."""

    records: tuple[BlueprintRecord, ...]
    conservative: str | None = None


def breaker_of_the_disk(breakers: Breakers, metrics: KarnMetrics) -> CircuitBreaker:
    """Make the breaker behind which the tallies are; while it is not closed, so says a gauge."""
    return breakers.make(
        "karn.tallies",
        BreakerPolicy(timeout_s=5.0),
        on_change=lambda state: metrics.conservative.set(float(state != "closed")),
    )


class Selector:
    """Answers queries from memory and keeps the tallies on disk behind a breaker.

    While the breaker is not closed, the answer is drawn from BP001 to BP010 alone: what cannot be
    counted should be simple. It ends by itself when the disk takes counts again. Calls are short
    and synchronous; use one from one thread at a time.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        tallies: Tallies,
        metrics: KarnMetrics,
        clock: Clock,
        breaker: CircuitBreaker,
    ) -> None:
        self.catalogue = catalogue
        self._tallies = tallies
        self._metrics = metrics
        self._clock = clock
        self.breaker = breaker

    def select(self, query: Query, *, costs: Mapping[str, Cost] | None = None) -> Selection:
        """Answer a query; `costs` as for `Catalogue.query`."""
        began = self._clock.monotonic()
        self._probe()
        if self.breaker.state == "closed":
            selection = Selection(self.catalogue.query(query, costs=costs))
        else:
            reason = f"the tallies' breaker is {self.breaker.state.replace('_', ' ')}"
            selection = Selection(self.catalogue.conservative(query), reason)
        self._metrics.selection.observe((self._clock.monotonic() - began) * 1e3)
        return selection

    def _probe(self) -> None:
        """Once an open breaker has waited long enough, see whether the disk takes counts again."""
        if self.breaker.state == "open" and self.breaker.retry_after_s == 0.0:
            with suppress(BreakerOpen, sqlite3.Error, OSError):
                self.breaker.call_sync(self._tallies.touch)

    def request(
        self, blueprint_id: str, *, request_id: str = "", drill: bool = False
    ) -> BlueprintRecord:
        """Hand out a record to plant, and count it; on disk a request with an id only once.

        A count that the disk refuses is lost, and opens the breaker when it happens again and
        again; the record is handed out all the same.

        Raises:
            UnknownBlueprintError: there is none.
            QuarantinedError: it is adversarial and this is no drill.
        """
        record = self.catalogue.get(blueprint_id, drill=drill)
        self._metrics.requests.add(1, tier=record.tier)
        with suppress(BreakerOpen, sqlite3.Error, OSError):
            self.breaker.call_sync(self._tallies.count_request, blueprint_id, request_id)
        return record

    def count_outcome(self, report_id: str, blueprint_id: str, outcome: Outcome) -> bool:
        """Count what a field report says; False if it was counted before.

        Raises:
            BreakerOpen: the disk has failed repeatedly; deliver the report again later.
            sqlite3.Error: the count was not written; deliver the report again.
        """
        return self.breaker.call_sync(self._tallies.count_outcome, report_id, blueprint_id, outcome)
