"""Publishes an outbox in batches, by the rules of back-pressure."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from esper_async.leyline.registry import TOPICS
from esper_async.oona.connection import ReconnectGate, connect
from esper_async.oona.depths import Depths
from esper_async.oona.errors import FAULTS
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.outbox import Outbox, Parcel
from esper_async.oona.pressure import Verdict
from esper_async.oona.publisher import Publisher
from esper_async.oona.settings import BusSettings

_LINGER_S = 0.01
"""What a boundary tells comes within some milliseconds: it goes out together."""


class Pump:
    """One outbox's way to Redis; `wake` and `run` belong to one event loop.

    Nobody waits for what is in an outbox: what another producer would be pushed back with is
    dropped here, and counted. While Redis is away the outbox fills up.
    """

    def __init__(
        self, url: str, outbox: Outbox, *, settings: BusSettings, metrics: BusMetrics
    ) -> None:
        self._url = url
        self._outbox = outbox
        self._settings = settings
        self._metrics = metrics
        self._news = asyncio.Event()
        self._publisher: Publisher | None = None

    @property
    def awake(self) -> bool:
        """Whether it knows already that there is something to publish."""
        return self._news.is_set()

    def wake(self) -> None:
        """Say that the outbox has something new."""
        self._news.set()

    async def run(self) -> None:
        """Publish until cancelled; a Redis that is away is waited for."""
        gate = ReconnectGate("bridge", cap_s=self._settings.reconnect_cap_s)
        client = connect(self._url, timeout_s=self._settings.command_timeout_s)
        publisher = self._publisher = Publisher(self._url, client, settings=self._settings)
        depths = Depths(client, settings=self._settings, metrics=self._metrics)
        try:
            while True:
                await self._news.wait()
                await asyncio.sleep(_LINGER_S)
                self._news.clear()
                while batch := self._outbox.peek(self._settings.batch):
                    try:
                        passing = await _admitted(batch, depths)
                        await self._publish(publisher, passing)
                    except FAULTS as error:
                        self._metrics.reconnects.add(role="bridge")
                        await gate.pause(error)
                    else:
                        self._settle(batch, passing)
                        gate.passed()
        finally:
            self._publisher = None
            await publisher.aclose()
            await client.aclose()

    async def send_beside(self, parcel: Parcel) -> bool:
        """Publish a parcel that was never in the outbox; tell whether Redis has taken it."""
        if self._publisher is None:
            return False
        try:
            await self._publisher.add([parcel])
        except FAULTS:
            return False
        return True

    async def _publish(self, publisher: Publisher, parcels: Sequence[Parcel]) -> None:
        if not parcels:
            return
        started = time.perf_counter()
        await publisher.add(parcels)
        elapsed_ms = (time.perf_counter() - started) * 1000
        for topic, count in Counter(parcel.topic for parcel in parcels).items():
            self._metrics.published.add(count, topic=topic)
            self._metrics.publish_latency.observe(elapsed_ms, topic=topic)

    def _settle(self, batch: Sequence[Parcel], passing: Sequence[Parcel]) -> None:
        kept = set(map(id, passing))
        dropped = [parcel for parcel in batch if id(parcel) not in kept]
        self._outbox.settle(len(batch), dropped)
        for parcel in dropped:
            self._metrics.dropped.add(priority=parcel.label, reason="depth")


async def _admitted(batch: Sequence[Parcel], depths: Depths) -> list[Parcel]:
    """Return the parcels that their topics have room for. Raises one of FAULTS.

    A topic is measured once at most: later, it would not show what passes here.
    """
    names = dict.fromkeys(parcel.topic for parcel in batch)
    pressures = {
        name: depths.recent(TOPICS[name]) or await depths.measure(TOPICS[name]) for name in names
    }
    passing = []
    for parcel in batch:
        topic, pressure = TOPICS[parcel.topic], pressures[parcel.topic]
        if pressure.verdict(parcel.priority) is not Verdict.ADMIT:
            continue
        passing.append(parcel)
        if topic.required_groups:
            pressure.observe(pressure.depth + 1)
    return passing
