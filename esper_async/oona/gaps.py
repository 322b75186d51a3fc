"""Reports what is missing from what a consumer reads, where that can be told.

A consumer that shares its group sees only some of the numbers; others have the rest. So a number
that was passed over is a gap only in a group of one. Whether it is one is asked now and then, and
only when there is something to report: whoever joined meanwhile is still known to Redis.
"""

import asyncio

import structlog

from esper_async.oona.connection import Client
from esper_async.oona.errors import FAULTS
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.sequence import Tracker
from esper_async.oona.settings import BusSettings

_LOG = structlog.get_logger(__name__)


class Gaps:
    """Runs beside a consumer and empties its tracker's counts into the metrics."""

    def __init__(
        self,
        client: Client,
        tracker: Tracker,
        *,
        topic: str,
        group: str,
        consumer: str,
        settings: BusSettings,
        metrics: BusMetrics,
    ) -> None:
        self._client = client
        self._tracker = tracker
        self._topic = topic
        self._group = group
        self._consumer = consumer
        self._every_s = settings.claim_every_s
        self._metrics = metrics

    async def run(self) -> None:
        """Report until cancelled; while Redis is away the counts wait."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.report()
            except FAULTS as error:
                _LOG.debug("gaps_wait", topic=self._topic, error=str(error))

    async def report(self) -> None:
        """Count what has come late, and what was passed over if the group is this consumer's own.

        Raises one of FAULTS; nothing is counted twice then.
        """
        late, self._tracker.late = self._tracker.late, 0
        if late:
            self._metrics.late.add(late, topic=self._topic, group=self._group)
        passed_over = self._tracker.passed_over
        for stream, number in (+passed_over).items():  # a copy: reading goes on meanwhile
            alone = await self._is_alone(stream)
            passed_over[stream] -= number
            if alone:
                self._metrics.gaps.add(number, topic=self._topic, group=self._group)
                _LOG.warning("messages_missing", stream=stream, group=self._group, number=number)

    async def _is_alone(self, stream: str) -> bool:
        rows = await self._client.xinfo_consumers(stream, self._group)
        return all(row["name"].decode() == self._consumer for row in rows)
