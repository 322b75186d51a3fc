"""Carries a spool to Redis, in order, until every required group has acknowledged each message.

XADD's reply proves little: a server killed a moment later may lose the entry. So an entry leaves
the spool only when, within one and the same life of the server, it was added and then seen below
every required group's floor. A restarted, failed-over or emptied server is another life: whatever
is left is published again, under the same event ids.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from esper_async.leyline.registry import TOPICS
from esper_async.oona.connection import (
    Client,
    ReconnectGate,
    connect,
    identity,
    watch_identity,
)
from esper_async.oona.errors import FAULTS
from esper_async.oona.groups import ensure_groups, group_states_of
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.presence import Presence
from esper_async.oona.settings import BusSettings
from esper_async.oona.spool import Spool, SpoolEntry
from esper_async.oona.streams import WIRE_FIELD, EntryId, parse_id

_LOG = structlog.get_logger(__name__)
_BEYOND_EVERY_ENTRY: EntryId = (2**64, 0)


@dataclass(frozen=True, slots=True)
class _Sent:
    """Where a spooled message lies in this life of the server."""

    topic: str
    stream: str
    entry_id: EntryId


class Courier:
    """Publishes one spool of `source`. `run` goes on until cancelled; call `wake` in its loop.

    `on_carried` is told each message that Redis has taken for the first time.
    """

    def __init__(
        self,
        url: str,
        spool: Spool,
        *,
        source: str,
        settings: BusSettings,
        metrics: BusMetrics,
        on_carried: Callable[[SpoolEntry], None] | None = None,
        presence: Presence | None = None,
    ) -> None:
        self._url = url
        self._depth_metric = metrics.spool_depth.bound(producer=source)
        self._spool = spool
        self._settings = settings
        self._metrics = metrics
        self._on_carried = on_carried
        self._presence = presence
        self._news = asyncio.Event()
        self._life = ""
        self._cursor = 0
        self._furthest = 0
        self._sent: dict[int, _Sent] = {}
        self._collect_at = 0.0
        self._prepared: set[str] = set()

    def wake(self) -> None:
        """Say that the spool has something new."""
        self._news.set()

    async def run(self) -> None:
        """Carry until cancelled. A Redis that is away is waited for."""
        cap_s = self._settings.reconnect_cap_s
        gate = ReconnectGate("courier", cap_s=cap_s, presence=self._presence)
        client = connect(self._url, timeout_s=self._settings.command_timeout_s)
        try:
            while True:
                try:
                    await self._round(client)
                    gate.passed()
                except FAULTS as error:
                    self._metrics.reconnects.add(role="courier")
                    self._depth_metric.set(len(self._spool))
                    await gate.pause(error)
        finally:
            await client.aclose()

    async def _round(self, client: Client) -> None:
        """Publish what is new, forget what is acknowledged if it is time, then wait for more.

        It is not time right after publishing: nobody can have read that yet.
        """
        self._news.clear()
        batch = await asyncio.to_thread(self._spool.after, self._cursor, self._settings.batch)
        if not self._sent:
            self._collect_at = time.monotonic() + self._settings.spool_poll_s
        if batch:
            await self._publish(client, batch)
        if self._sent and time.monotonic() >= self._collect_at:
            await self._collect(client)
            self._collect_at = time.monotonic() + self._settings.spool_poll_s
        self._depth_metric.set(len(self._spool))
        self._metrics.courier_rounds.add()
        if len(batch) < self._settings.batch:
            patience = max(0.0, self._collect_at - time.monotonic()) if self._sent else None
            try:
                async with asyncio.timeout(patience):
                    await self._news.wait()
            except TimeoutError:
                return

    async def _publish(self, client: Client, batch: list[SpoolEntry]) -> None:
        for entry in batch:
            if entry.stream not in self._prepared:
                await ensure_groups(client, entry.stream, TOPICS[entry.topic].required_groups)
                self._prepared.add(entry.stream)
        async with (
            asyncio.timeout(self._settings.command_timeout_s),
            client.pipeline(transaction=True) as pipeline,
        ):
            if self._is_another_life(await watch_identity(client, pipeline)):
                return
            for entry in batch:
                pipeline.xadd(entry.stream, {WIRE_FIELD: entry.wire})
            replies = await pipeline.execute()
        for entry, reply in zip(batch, replies, strict=True):
            self._sent[entry.seq] = _Sent(entry.topic, entry.stream, parse_id(reply))
            self._metrics.published.add(topic=entry.topic)
            if entry.seq <= self._furthest:
                self._metrics.republished.add()
            elif self._on_carried is not None:
                self._on_carried(entry)
        self._cursor = batch[-1].seq
        self._furthest = max(self._furthest, self._cursor)

    async def _collect(self, client: Client) -> None:
        """Remove from the spool what every required group has acknowledged in this life."""
        topics = {sent.stream: sent.topic for sent in self._sent.values()}
        found = await group_states_of(client, list(topics), lag_limit=1)
        floors: dict[str, EntryId] = {}
        for stream, states in found.items():
            required = TOPICS[topics[stream]].required_groups
            if any(group not in states for group in required):
                _LOG.warning("required_group_lost", stream=stream, waiting=len(self._sent))
                self._rewind(self._life)
                return
            floors[stream] = min(
                (states[group].floor for group in required), default=_BEYOND_EVERY_ENTRY
            )
        # names never come again: what is still the same life was it when the groups answered
        if self._is_another_life(await identity(client)):
            return
        done = [seq for seq, sent in self._sent.items() if sent.entry_id < floors[sent.stream]]
        if done:
            await asyncio.to_thread(self._spool.remove, done)
            for seq in done:
                del self._sent[seq]

    def _is_another_life(self, life: str) -> bool:
        """Tell whether the server has forgotten since the last call; if so, start over."""
        if life == self._life:
            return False
        if self._sent:
            _LOG.warning("server_lost_its_memory", publishing_again=len(self._sent))
        self._rewind(life)
        return True

    def _rewind(self, life: str) -> None:
        """Start over with everything that is left on disk."""
        self._life = life
        self._cursor = 0
        self._sent.clear()
        self._prepared.clear()
        self._news.set()
