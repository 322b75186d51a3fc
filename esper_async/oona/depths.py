"""How deep each topic is for one producer, measured now and then, counted on in between."""

import asyncio
import time
from collections.abc import Callable

from esper_async.leyline.registry import Topic
from esper_async.oona.connection import Client
from esper_async.oona.groups import group_states_of
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.pressure import Pressure
from esper_async.oona.settings import BusSettings
from esper_async.oona.streams import lanes


class Depths:
    """The pressure on every topic that this producer publishes to.

    A topic that no group requires has no depth of its own: it gives way, to the last message, where
    another topic of this producer is in conservative mode.
    """

    def __init__(
        self,
        client: Client,
        *,
        settings: BusSettings,
        metrics: BusMetrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._settings = settings
        self._metrics = metrics
        self._monotonic = monotonic
        self._known: dict[str, tuple[Pressure, float]] = {}
        self._expendable = Pressure(settings)
        self._one_at_a_time = asyncio.Lock()

    def recent(self, topic: Topic) -> Pressure | None:
        """Return the topic's pressure when it was measured lately, or needs no measuring."""
        if not topic.required_groups:
            self._expendable.conservative = any(
                each.conservative for each, _ in self._known.values()
            )
            return self._expendable
        if topic.name in self._known and self._one_at_a_time.locked():
            return self._known[topic.name][0]  # while one caller measures, others go by the last
        return self._fresh(topic)

    def _fresh(self, topic: Topic) -> Pressure | None:
        known = self._known.get(topic.name)
        if known is None or self._monotonic() - known[1] >= self._settings.depth_refresh_s:
            return None
        return known[0]

    async def measure(self, topic: Topic) -> Pressure:
        """Ask Redis, and return the topic's pressure. Raises one of FAULTS."""
        async with self._one_at_a_time:
            if meanwhile := self._fresh(topic):
                return meanwhile
            depth = await self._ask(topic)
            pressure = self._known.get(topic.name, (Pressure(self._settings), 0.0))[0]
            pressure.observe(depth)
            self._known[topic.name] = (pressure, self._monotonic())
        return pressure

    async def _ask(self, topic: Topic) -> int:
        """Return how many entries the slowest required group has still to acknowledge."""
        depths = [0]
        bound = self._settings.queue_bound
        found = await group_states_of(self._client, lanes(topic.name), lag_limit=bound)
        for stream, states in found.items():
            if states.keys() >= set(topic.required_groups):
                depths += [states[name].depth for name in topic.required_groups]
            else:
                depths.append(int(await self._client.xlen(stream)))
        return max(depths)
