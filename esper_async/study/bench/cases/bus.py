"""How fast is the bus, against redis-py itself on the same server in the same run?

Rates are compared in rounds of raw, ours, raw: the median of the rounds' ratios is judged with its
interval, and one that straddles its bar is inconclusive. A latency is judged together with the lag
of plain writes to the same server from a process of its own: where that alone could have made it
miss, it is inconclusive. So is what a slow machine explains, as far as it does.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import redis.asyncio

from esper_async.leyline import Signer, wrap
from esper_async.leyline.v1.enums_pb2 import MESSAGE_PRIORITY_CRITICAL
from esper_async.oona import Bus, EmbeddedServer
from esper_async.oona.consumer import Consumer
from esper_async.oona.delivery import Delivery
from esper_async.oona.publisher import Publisher
from esper_async.oona.streams import lanes, normal_lane
from esper_async.study.bench import bus_load as load
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    shown,
    wants,
)
from esper_async.study.bench.interleave import Comparison, Lap, Rounds

REFERENCE_RAW_PER_S = 130_000
LEAST_ROUNDS = 3
_BEYOND_LUCK = 10.0
"""So many times its bar is a miss at once, on however slow a machine."""
BATCH, BACKLOG, RATE_PER_S = 100, 4_000, 1_000
WORK_S, EMERGENCY_EVERY_S = 0.0005, 0.02
STREAM = normal_lane(load.TOPIC)
_BATCHES, _SINGLES = "publish, batches of 100", "publish, one by one"
_CONSUMED = "consume, verify, acknowledge"
_PACED = tuple(f"publish to handler at {RATE_PER_S}/s, {which}" for which in ("p50", "p99"))
_EMERGENCY = f"emergency over a backlog of {BACKLOG}, p99"


@dataclass(frozen=True, slots=True)
class Extent:
    """How much one form measures: so many rounds of a comparison, or as many as fit the time."""

    rounds: int
    spend_s: float
    batched: int
    unbatched: int
    consumed: int
    paced: int
    emergencies: int


_EXTENTS = {
    Effort.SHORT: Extent(9, 5.0, 2_000, 100, 2_000, 1_500, 60),
    Effort.FULL: Extent(20, 120.0, 10_000, 1_000, 10_000, 10_000, 150),
}


def measure(effort: Effort) -> list[Row]:
    """Measure rates against redis-py's, then latencies."""
    return asyncio.run(_measure(_EXTENTS[effort]))


async def _measure(extent: Extent) -> list[Row]:
    async with load.running_server() as server, load.open_bus(server) as bus:
        raw = redis.asyncio.Redis.from_url(server.url)
        try:
            rows: list[Row] = []
            if wants(_BATCHES, _SINGLES, _CONSUMED, *_PACED):
                rows, raw_per_s = await _Rates(server, bus, raw, extent).rows()
                if wants(*_PACED):
                    rows += await _paced(server.url, bus, raw, extent, raw_per_s)
            if wants(_EMERGENCY):
                rows += await _emergencies(server.url, bus, raw, extent)
        finally:
            await raw.aclose()
    return rows


# -- rates ---------------------------------------------------------------------------------------


class _Rates:
    """Each way of using the bus, beside redis-py's own."""

    def __init__(
        self, server: EmbeddedServer, bus: Bus, raw: redis.asyncio.Redis, extent: Extent
    ) -> None:
        self._server = server
        self._bus = bus
        self._raw = raw
        self._extent = extent
        self._messages = [load.alert(number) for number in range(BATCH)]

    async def rows(self) -> tuple[list[Row], float]:
        """Compare publishing in batches, one by one, and consuming.

        Also returns how many single messages a second redis-py publishes here.
        """
        extent = self._extent
        batched = await self._compare(
            partial(self._raw_batches, extent.batched), partial(self._batches, extent.batched)
        )
        single = await self._compare(
            partial(self._raw_singles, extent.unbatched), partial(self._singles, extent.unbatched)
        )
        consumed = await self._compare(self._raw_consume, self._consume, prepare=self._fill)
        raw_each = extent.batched / batched.baseline_s
        each = raw_each / batched.ratio.value
        slow = each < 40_000 <= each * REFERENCE_RAW_PER_S / raw_each
        return [
            _rate_row(_BATCHES, batched, extent.batched, 0.45),
            judged(
                f"{_BATCHES}, signed",
                each,
                "/s",
                Bar("at least", 40_000),
                note=f"raw did {raw_each:.0f}/s",
                doubt=f"raw did {raw_each:.0f}/s, not {REFERENCE_RAW_PER_S}" if slow else "",
            ),
            _rate_row(_SINGLES, single, extent.unbatched, 0.7),
            _rate_row(_CONSUMED, consumed, extent.consumed, 0.5),
        ], extent.unbatched / single.baseline_s

    async def _compare(
        self,
        raw: Callable[[], Awaitable[float]],
        ours: Callable[[], Awaitable[float]],
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> Comparison:
        """Time raw, ours, raw in turn; each way says itself how long it took, in seconds."""
        rounds = Rounds()
        give_up = time.perf_counter() + self._extent.spend_s
        for number in range(1 + self._extent.rounds):
            if number > LEAST_ROUNDS and time.perf_counter() > give_up:
                break  # the interval says how little that was
            for work, laps in ((raw, rounds.before), (ours, rounds.middle), (raw, rounds.after)):
                await self._raw.flushall()
                if prepare is not None:
                    await prepare()
                took_s = await work()
                if number:  # the first round warms up
                    laps.append(Lap(0.0, took_s))
        return rounds.compare("wall_s")

    async def _raw_batches(self, count: int) -> float:
        payload = bytes(load.PAYLOAD_BYTES)
        started = time.perf_counter()
        for _ in range(count // BATCH):
            pipeline = self._raw.pipeline(transaction=False)
            for _ in range(BATCH):
                pipeline.xadd(STREAM, {b"e": payload})
            await pipeline.execute()
        return time.perf_counter() - started

    async def _batches(self, count: int) -> float:
        started = time.perf_counter()
        for _ in range(count // BATCH):
            await self._bus.publish_many(self._messages)
        return time.perf_counter() - started

    async def _raw_singles(self, count: int) -> float:
        payload = bytes(load.PAYLOAD_BYTES)
        started = time.perf_counter()
        for _ in range(count):
            await self._raw.xadd(STREAM, {b"e": payload})
        return time.perf_counter() - started

    async def _singles(self, count: int) -> float:
        message = self._messages[0]
        started = time.perf_counter()
        for _ in range(count):
            await self._bus.publish(message)
        return time.perf_counter() - started

    async def _fill(self) -> None:
        await fill(self._raw, self._extent.consumed)

    async def _raw_consume(self) -> float:
        """Read and acknowledge; timed as ours is, from the first reply to the last."""
        seen, first = 0, 0.0
        while True:
            reply: Any = await self._raw.xreadgroup(load.GROUP, "raw", {STREAM: ">"}, count=BATCH)
            last = time.perf_counter()
            first = first or last
            ids = [entry_id for entry_id, _ in reply[0][1]]
            seen += len(ids)
            if seen >= self._extent.consumed:
                return last - first
            await self._raw.xack(STREAM, load.GROUP, *ids)

    async def _consume(self) -> float:
        counter = load.Counter(self._extent.consumed)
        async with load.consuming(self._bus, counter):
            await counter.all()
        return counter.last - counter.first


def _rate_row(figure: str, compared: Comparison, count: int, least: float) -> Row:
    baseline = count / compared.baseline_s
    took = compared.ratio
    return judged(
        figure,
        baseline / took.value,
        "/s",
        Bar("at least", least),
        baseline=baseline,
        interval=(1 / took.high, 1 / took.low),
        note="against redis-py's asyncio client on the same server; "
        f"that against itself {1 / compared.control.value:.2f}",
    )


async def fill(raw: redis.asyncio.Redis, count: int) -> None:
    """Put signed messages on the normal lane, and the group that reads them."""
    signer = Signer(load.KEY)
    for start in range(0, count, BATCH):
        pipeline = raw.pipeline(transaction=False)
        for number in range(start, min(start + BATCH, count)):
            wire = wrap(load.alert(number), source="bench", signer=signer)
            pipeline.xadd(STREAM, {b"e": wire})
        await pipeline.execute()
    for stream in lanes(load.TOPIC):
        await raw.xgroup_create(stream, load.GROUP, id="0", mkstream=True)


# -- latencies -----------------------------------------------------------------------------------


async def _paced(
    url: str, bus: Bus, raw: redis.asyncio.Redis, extent: Extent, raw_per_s: float
) -> list[Row]:
    """Publish a thousand a second and take the time to the handler."""
    await raw.flushall()
    await fill(raw, 0)
    sent: dict[str, float] = {}
    taken_ms: list[float] = []
    lags_ms: dict[int, float] = {}

    async def handler(message: Any, _envelope: Any) -> None:
        taken_ms.append(1e3 * (time.perf_counter() - sent[message.alert_id]))

    async with (
        load.consuming(bus, handler),
        load.watching_lag(url, lags_ms),
        asyncio.TaskGroup() as group,
    ):
        begun = time.perf_counter()
        for number in range(extent.paced):
            wait_s = begun + number / RATE_PER_S - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            message = load.alert(number)
            sent[message.alert_id] = time.perf_counter()
            group.create_task(bus.publish(message))
        await _until(lambda: len(taken_ms) == extent.paced)
    slowness = 5 * RATE_PER_S / raw_per_s
    return [
        _latency_row(_PACED[0], taken_ms, lags_ms, 50, 2.0, slowness),
        _latency_row(_PACED[1], taken_ms, lags_ms, 99, 10.0, slowness),
    ]


async def _emergencies(url: str, bus: Bus, raw: redis.asyncio.Redis, extent: Extent) -> list[Row]:
    """Publish emergencies while a consumer that works has a backlog to go through.

    It begins with so much more that it is not below `BACKLOG` at the end.
    """
    await raw.flushall()
    lasts_s = extent.emergencies * EMERGENCY_EVERY_S
    await fill(raw, BACKLOG + int(1.5 * lasts_s / WORK_S) // BATCH * BATCH)
    sent: dict[str, float] = {}
    taken_ms: list[float] = []
    lags_ms: dict[int, float] = {}

    async def handler(message: Any, envelope: Any) -> None:
        if envelope.priority == MESSAGE_PRIORITY_CRITICAL:
            taken_ms.append(1e3 * (time.perf_counter() - sent[message.alert_id]))
        else:
            time.sleep(WORK_S)  # noqa: ASYNC251 - a handler at work, which the loop feels
            await asyncio.sleep(0)

    async with load.watching_lag(url, lags_ms), load.consuming(bus, handler):
        for number in range(extent.emergencies):
            await asyncio.sleep(EMERGENCY_EVERY_S)
            message = load.alert(10_000_000 + number)
            sent[message.alert_id] = time.perf_counter()
            await bus.publish(message, priority=MESSAGE_PRIORITY_CRITICAL)
        await _until(lambda: len(taken_ms) == extent.emergencies)
        left = int((await raw.xpending(STREAM, load.GROUP))["pending"])
        left += int((await raw.xinfo_groups(STREAM))[0]["lag"] or 0)
    return [
        _latency_row(
            _EMERGENCY,
            taken_ms,
            lags_ms,
            99,
            10.0,
            doubt=f"only {left} entries were left behind the last one" if left < BACKLOG else "",
        ),
        shown("backlog at the last emergency", float(left), "entries"),
    ]


def _latency_row(
    figure: str,
    taken_ms: list[float],
    lags_ms: Mapping[int, float],
    percentile: int,
    most_ms: float,
    slowness: float = 0.0,
    *,
    doubt: str = "",
) -> Row:
    """Judge a latency; over 1, `slowness` is by how much Redis is too slow here for that bar."""
    value = float(np.percentile(taken_ms, percentile))
    lag = lags_ms[percentile]
    noise = f"a plain write of another process was late by {lag:.1f} ms"
    if most_ms < value <= most_ms + 3 * lag:  # in, over and back each wait as long
        doubt = noise
    elif slowness > 1.0 and most_ms < value <= _BEYOND_LUCK * slowness * most_ms:
        doubt = f"Redis is too slow here for {RATE_PER_S}/s, by {slowness:.1f}"
    return judged(figure, value, "ms", Bar("at most", most_ms), note=noise, doubt=doubt)


async def _until(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the handlers tell nobody
            await asyncio.sleep(0.005)


# -- mutants -------------------------------------------------------------------------------------


async def _one_by_one(publisher: Publisher, parcels: Any) -> None:
    for parcel in parcels:
        await _whole_add(publisher, [parcel])


async def _waits_for_company(publisher: Publisher, parcels: Any) -> None:
    await asyncio.sleep(0.02)
    await _whole_add(publisher, parcels)


async def _acknowledge_singly(delivery: Delivery, entry: Any) -> None:
    delivery._done[entry.stream].append(entry.entry_id)
    await delivery.flush()


async def _looks_now_and_then(consumer: Consumer, streams: Any, **how: Any) -> Any:
    if how.get("block_s") is not None:
        await asyncio.sleep(0.3)
    return await _whole_read(consumer, streams, **how)


@contextmanager
def _nothing_together() -> Iterator[None]:
    with (
        replaced("esper_async.oona.publisher.Publisher.add", _one_by_one),
        replaced("esper_async.oona.delivery.Delivery._acknowledge", _acknowledge_singly),
    ):
        yield


@contextmanager
def _without_haste() -> Iterator[None]:
    with (
        replaced("esper_async.oona.publisher.Publisher.add", _waits_for_company),
        replaced("esper_async.oona.consumer.Consumer._read", _looks_now_and_then),
    ):
        yield


_whole_add, _whole_read = Publisher.add, Consumer._read

BENCHMARK = Benchmark(
    name="bus",
    question="how fast is the bus, against redis-py itself?",
    measure=measure,
    mutants=(
        Mutant(
            "a round trip for every message",
            "a batch is published one by one, and every message waits for an XACK of its own",
            _nothing_together,
            fails=(f"{_BATCHES}*", _CONSUMED),
        ),
        Mutant(
            "nobody hurries",
            "publishing lingers for 20 ms, and the consumer rests for 300 ms before it asks",
            _without_haste,
            fails=(_SINGLES, *_PACED),
        ),
        Mutant(
            "ordinary messages first",
            "the emergency lane is read last",
            lambda: replaced(
                "esper_async.oona.consumer.lanes", lambda topic: tuple(reversed(lanes(topic)))
            ),
            fails=(_EMERGENCY,),
        ),
    ),
)
