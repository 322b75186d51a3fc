"""Keeps Redis small without ever removing what a required group has not acknowledged."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from esper_async.leyline.registry import TOPICS, Topic
from esper_async.oona.connection import Client, ReconnectGate
from esper_async.oona.errors import FAULTS
from esper_async.oona.groups import GroupState, group_states_of
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.presence import Presence
from esper_async.oona.pressure import Pressure
from esper_async.oona.settings import BusSettings
from esper_async.oona.streams import LETTER_STREAMS, EntryId, format_id, lanes

_LOG = structlog.get_logger(__name__)


class Janitor:
    """Sweeps every topic each second. Idempotent, so several may run on one bus."""

    def __init__(
        self,
        client: Client,
        *,
        settings: BusSettings,
        metrics: BusMetrics,
        presence: Presence | None = None,
    ) -> None:
        self._client = client
        self._settings = settings
        self._metrics = metrics
        self._presence = presence
        self._pressures = {name: Pressure(settings) for name in TOPICS}
        self._tidy_at = 0.0

    @property
    def conservative(self) -> list[str]:
        """The topics in conservative mode, as of the last sweep."""
        return [name for name, each in self._pressures.items() if each.conservative]

    async def run(self) -> None:
        """Sweep until cancelled; a Redis that is away is waited for."""
        cap_s = self._settings.reconnect_cap_s
        gate = ReconnectGate("janitor", cap_s=cap_s, presence=self._presence)
        while True:
            try:
                await self.sweep()
                gate.passed()
                await asyncio.sleep(self._settings.janitor_every_s)
            except FAULTS as error:
                self._metrics.reconnects.add(role="janitor")
                await gate.pause(error)

    async def sweep(self) -> None:
        """Measure, evict and trim each topic once; tidy those whose turn it is."""
        tidying = self._is_time_to_tidy()
        streams = [(topic, stream) for topic in TOPICS.values() for stream in lanes(topic.name)]
        found = await group_states_of(
            self._client,
            [stream for _, stream in streams],
            lag_limit=self._settings.optional_lag_limit + 1,
        )
        states = {s: await self._evict(topic, s, found[s]) for topic, s in streams}
        await self._trim(streams, states)
        if tidying:
            for stream, of_stream in states.items():
                await self._remove_idle_consumers(stream, of_stream)
        for topic in TOPICS.values():
            self._observe(topic, [states[stream] for stream in lanes(topic.name)])
        await self._bound_dead_letters()

    def _observe(self, topic: Topic, lanes_states: Sequence[Mapping[str, GroupState]]) -> None:
        """Note how far behind the required group is that is farthest behind."""
        required = topic.required_groups
        depth = max(
            (each[name].depth for each in lanes_states for name in required if name in each),
            default=0,
        )
        pressure = self._pressures[topic.name]
        pressure.observe(depth)
        self._metrics.depth.set(depth, topic=topic.name)
        self._metrics.conservative.set(float(pressure.conservative), topic=topic.name)

    def _is_time_to_tidy(self) -> bool:
        """Whether to look for idle consumers: they take an hour to become so."""
        now = time.monotonic()
        if now < self._tidy_at:
            return False
        self._tidy_at = now + max(0.0, self._settings.idle_consumer_s / 60)
        return True

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

    async def _trim(
        self,
        streams: Sequence[tuple[Topic, str]],
        states: Mapping[str, Mapping[str, GroupState]],
    ) -> None:
        """Remove what every group of a stream is done with, or what is past its retention.

        Its age is by the server's clock; of what has a retention only so much is kept, too.
        """
        seconds, _ = await self._client.time()
        topics = []
        async with self._client.pipeline(transaction=False) as pipeline:
            for topic, stream in streams:
                if topic.retention_s is not None:
                    oldest = f"{int((seconds - topic.retention_s) * 1000)}-0"
                    most = self._settings.expendable_entries
                    pipeline.xtrim(stream, minid=oldest, approximate=False)
                    pipeline.xtrim(stream, maxlen=most, approximate=False)
                    topics += [topic, topic]
                elif all(name in states[stream] for name in topic.required_groups):
                    floor: EntryId = min(state.floor for state in states[stream].values())
                    pipeline.xtrim(stream, minid=format_id(floor), approximate=False)
                    topics.append(topic)
            removed = await pipeline.execute()
        for topic, count in zip(topics, removed, strict=True):
            if count:
                self._metrics.trimmed.add(int(count), topic=topic.name)

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
