"""Keeps Redis small without ever removing what a required group has not acknowledged."""

import asyncio
from typing import Any

import structlog

from esper_async.leyline.registry import TOPICS, Topic
from esper_async.oona.connection import Client, ReconnectGate
from esper_async.oona.errors import FAULTS
from esper_async.oona.groups import GroupState, group_states
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.pressure import Pressure
from esper_async.oona.settings import BusSettings
from esper_async.oona.streams import LETTER_STREAMS, EntryId, format_id, lanes

_LOG = structlog.get_logger(__name__)


class Janitor:
    """Sweeps every topic each second. Idempotent, so several may run on one bus."""

    def __init__(self, client: Client, *, settings: BusSettings, metrics: BusMetrics) -> None:
        self._client = client
        self._settings = settings
        self._metrics = metrics
        self._pressures = {name: Pressure(settings) for name in TOPICS}

    @property
    def conservative(self) -> list[str]:
        """The topics in conservative mode, as of the last sweep."""
        return [name for name, each in self._pressures.items() if each.conservative]

    async def run(self) -> None:
        """Sweep until cancelled; a Redis that is away is waited for."""
        gate = ReconnectGate("janitor", cap_s=self._settings.reconnect_cap_s)
        while True:
            try:
                await self.sweep()
                gate.passed()
                await asyncio.sleep(self._settings.janitor_every_s)
            except FAULTS as error:
                self._metrics.reconnects.add(role="janitor")
                await gate.pause(error)

    async def sweep(self) -> None:
        """Measure, evict, trim and tidy each topic once."""
        for topic in TOPICS.values():
            depth = 0
            for stream in lanes(topic.name):
                states = await group_states(
                    self._client, stream, lag_limit=self._settings.optional_lag_limit + 1
                )
                states = await self._evict(topic, stream, states)
                await self._trim(topic, stream, states)
                await self._remove_idle_consumers(stream, states)
                required = [states[name] for name in topic.required_groups if name in states]
                depth = max(depth, *(state.depth for state in required), 0)
            pressure = self._pressures[topic.name]
            pressure.observe(depth)
            self._metrics.depth.set(depth, topic=topic.name)
            self._metrics.conservative.set(float(pressure.conservative), topic=topic.name)
        await self._bound_dead_letters()

    async def _evict(
        self, topic: Topic, stream: str, states: dict[str, GroupState]
    ) -> dict[str, GroupState]:
        """Remove optional groups that lag too far, so that they hold nobody up."""
        kept = {}
        for name, state in states.items():
            expendable = name not in topic.required_groups
            if expendable and state.depth > self._settings.optional_lag_limit:
                await self._client.xgroup_destroy(stream, name)
                self._metrics.evicted.add(topic=topic.name, group=name)
                _LOG.error("group_evicted", group=name, stream=stream, entries_behind=state.depth)
            else:
                kept[name] = state
        return kept

    async def _trim(self, topic: Topic, stream: str, states: dict[str, GroupState]) -> None:
        if topic.retention_s is not None:
            removed = await self._expire(stream, topic.retention_s)
        elif all(name in states for name in topic.required_groups):
            floor: EntryId = min(state.floor for state in states.values())
            removed = await self._client.xtrim(stream, minid=format_id(floor), approximate=False)
        else:
            return
        if removed:
            self._metrics.trimmed.add(int(removed), topic=topic.name)

    async def _expire(self, stream: str, retention_s: float) -> int:
        """Remove what is older than its retention, by the server's clock, or too much."""
        seconds, _ = await self._client.time()
        oldest_ms = int((seconds - retention_s) * 1000)
        removed = await self._client.xtrim(stream, minid=f"{oldest_ms}-0", approximate=False)
        return int(removed) + int(
            await self._client.xtrim(
                stream, maxlen=self._settings.expendable_entries, approximate=False
            )
        )

    async def _bound_dead_letters(self) -> None:
        """Keep the newest of each kind: nobody may ever look, and Redis's memory is everybody's."""
        kept = self._settings.dead_letters_kept
        for kind, stream in LETTER_STREAMS.items():
            removed = int(await self._client.xtrim(stream, maxlen=kept, approximate=False))
            if removed:
                self._metrics.dead_letters_trimmed.add(removed, kind=kind)
                _LOG.error(
                    "dead_letters_trimmed",
                    kind=kind,
                    removed=removed,
                    kept=kept,
                    remedy="mend what refuses them; replay or purge them with `dead-letters`; "
                    "or raise oona.dead_letters_kept",
                )

    async def _remove_idle_consumers(self, stream: str, states: dict[str, GroupState]) -> None:
        """Forget consumers that own nothing and have not been seen for long.

        One that comes back in that very moment may lose what it was just given; the group then
        goes back to where it stood before, and gets it again.
        """
        for name, state in states.items():
            for row in await self._client.xinfo_consumers(stream, name):
                idle_s = int(row["idle"]) / 1000
                if row["pending"] or idle_s <= self._settings.idle_consumer_s:
                    continue
                lost: Any = await self._client.xgroup_delconsumer(stream, name, row["name"])
                if lost:
                    before = format_id(state.last_delivered)
                    await self._client.xgroup_setid(stream, name, before)
                    _LOG.warning("removed_consumer_was_back", group=name, stream=stream, again=lost)
