"""Keeps the leases of what a consumer has in hand, and takes over from consumers that died.

An entry's idle time is its lease: while it is in hand it is renewed, so that a long handler is
not taken for a dead one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from esper_async.oona.connection import Client
from esper_async.oona.delivery import Delivery, Entry
from esper_async.oona.errors import FAULTS
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.settings import BusSettings
from esper_async.oona.streams import WIRE_FIELD, lanes, sweeper_key

_LOG = structlog.get_logger(__name__)
_PAGE = 1_000


class Leases:
    """Runs beside a consumer; what it claims waits in `take_claimed`."""

    def __init__(
        self,
        client: Client,
        *,
        topic: str,
        group: str,
        consumer: str,
        delivery: Delivery,
        settings: BusSettings,
        metrics: BusMetrics,
        on_claimed: Callable[[], Awaitable[None]],
    ) -> None:
        self._client = client
        self._topic = topic
        self._group = group
        self._consumer = consumer
        self._delivery = delivery
        self._settings = settings
        self._metrics = metrics
        self._on_claimed = on_claimed
        self._claimed: list[Entry] = []
        self._cursors = dict.fromkeys(lanes(topic), "0-0")

    def take_claimed(self) -> list[Entry]:
        """Return what was claimed since the last call; it is in hand."""
        entries, self._claimed = self._claimed, []
        return entries

    async def run(self) -> None:
        """Renew and claim until cancelled."""
        period_s = min(self._settings.claim_every_s, self._settings.lease_s / 3)
        while True:
            await asyncio.sleep(period_s)
            try:
                for stream in self._cursors:
                    await self._renew(stream)
                await self._sweep(period_s)
            except FAULTS as error:
                _LOG.debug("leases_wait", topic=self._topic, error=str(error))

    async def _renew(self, stream: str) -> None:
        """Reset the idle time of entries in hand that are still ours."""
        held = {entry_id for name, entry_id in self._delivery.in_hand if name == stream}
        if not held:
            return
        start = "-"
        while True:
            rows: Any = await self._client.xpending_range(
                stream,
                self._group,
                min=start,
                max="+",
                count=_PAGE,
                consumername=self._consumer,
            )
            ours = [row["message_id"] for row in rows if row["message_id"].decode() in held]
            if ours:
                await self._client.xclaim(stream, self._group, self._consumer, 0, ours, justid=True)
            if len(rows) < _PAGE:
                return
            start = f"({rows[-1]['message_id'].decode()}"

    async def _sweep(self, period_s: float) -> None:
        """Claim entries whose lease has run out; one consumer of the group does it at a time."""
        key = sweeper_key(self._topic, self._group)
        mine = await self._client.set(key, self._consumer, nx=True, px=max(1, int(period_s * 900)))
        if not mine:
            return
        for stream, cursor in self._cursors.items():
            reply = await self._client.xautoclaim(
                stream,
                self._group,
                self._consumer,
                int(self._settings.lease_s * 1000),
                start_id=cursor,
                count=self._settings.batch,
            )
            self._cursors[stream] = reply[0].decode()
            found = self._delivery.take(
                Entry(
                    stream,
                    entry_id.decode(),
                    (fields or {}).get(WIRE_FIELD, b""),
                    redelivered=True,
                    gone=not fields,
                )
                for entry_id, fields in reply[1]
                if entry_id is not None  # deleted; 6.2 reports it so
            )
            if found:
                self._claimed += found
                self._metrics.claimed.add(len(found), topic=self._topic, group=self._group)
                await self._on_claimed()
