"""What does a producer notice of a group that nobody reads for any more?

Of an optional one nothing: publishing beside it is timed against publishing without it, nothing is
dropped or pushed back, and once the group is too far behind it is evicted, which is said. Of a
required one what its class says, and nothing that the group has not acknowledged is trimmed: when
it comes back it gets everything that was accepted.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import redis.asyncio
from structlog.testing import capture_logs

from esper_async.leyline import Alert, Signer
from esper_async.leyline.registry import Topic
from esper_async.leyline.v1.enums_pb2 import (
    MESSAGE_PRIORITY_CRITICAL,
    MESSAGE_PRIORITY_LOW,
    MESSAGE_PRIORITY_NORMAL,
)
from esper_async.oona import Backpressure, Bus, BusSettings, EmbeddedServer, Spool
from esper_async.oona.connection import connect
from esper_async.oona.depths import Depths
from esper_async.oona.groups import GroupState, group_states
from esper_async.oona.janitor import Janitor
from esper_async.oona.pressure import Pressure, Verdict
from esper_async.oona.publisher import Publisher
from esper_async.oona.streams import emergency_lane, lanes, normal_lane
from esper_async.study.bench import bus_load as load
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    wants,
)
from esper_async.study.bench.interleave import Lap, Rounds

BATCH, LEAST_RATE, LAG_LIMIT, SURPLUS = 100, 0.95, 4_800, 100
DASHBOARD = "dashboard"
STREAM, EMERGENCIES = normal_lane(load.TOPIC), emergency_lane(load.TOPIC)
SETTINGS = BusSettings(optional_lag_limit=LAG_LIMIT, spool_poll_s=0.02, janitor_every_s=3_600.0)
"""Bounds as they are by default, and a lag limit that a bounded topic can exceed."""
_AT_ONCE_MS = 5.0
_BESIDE = "published beside a dead optional group"


@dataclass(frozen=True, slots=True)
class Extent:
    """How many rounds compare publishing, and how many messages a lap publishes."""

    rounds: int
    published: int


_EXTENTS = {Effort.SHORT: Extent(60, 1_000), Effort.FULL: Extent(100, 5_000)}


def measure(effort: Effort) -> list[Row]:
    """Let an optional group die, then a required one."""
    return asyncio.run(_measure(_EXTENTS[effort]))


async def _measure(extent: Extent) -> list[Row]:
    async with load.running_server() as server:
        raw = redis.asyncio.Redis.from_url(server.url)
        try:
            rows = [await _rate(server, raw, extent)] if wants(_BESIDE) else []
            rows += await _optional(server, raw)
            rows += await _required(server, raw)
        finally:
            await raw.aclose()
    return rows


# -- a dead optional group -----------------------------------------------------------------------


async def _rate(server: EmbeddedServer, raw: redis.asyncio.Redis, extent: Extent) -> Row:
    """Compare publishing beside a dead optional group with publishing without it."""
    rounds = Rounds()
    messages = [load.alert(number) for number in range(BATCH)]
    async with load.open_bus(server) as bus:
        for number in range(1 + extent.rounds):
            for dead, laps in ((0, rounds.before), (1, rounds.middle), (0, rounds.after)):
                await _begin(raw, [load.GROUP, DASHBOARD] if dead else [load.GROUP])
                await bus.publish_many(messages)
                if dead:  # it read something and died over it
                    await raw.xreadgroup(DASHBOARD, "dead", {STREAM: ">"}, count=10)
                started = time.perf_counter()
                for _ in range(extent.published // BATCH):
                    await bus.publish_many(messages)
                if number:  # the first round warms up
                    laps.append(Lap(0.0, time.perf_counter() - started))
    return load.rate_row(
        _BESIDE,
        rounds.compare("wall_s"),
        extent.published,
        LEAST_RATE,
        note="against the same without the group",
    )


async def _optional(server: EmbeddedServer, raw: redis.asyncio.Redis) -> list[Row]:
    """Leave an optional group behind past its limit, beside a required one that keeps up."""
    await _begin(raw, [load.GROUP, DASHBOARD])
    producer = _Producer()
    handled: set[str] = set()
    async with _bus(server) as (bus, janitor), _hearing(bus, handled):
        for number in range(0, LAG_LIMIT, BATCH):
            await producer.low(bus, number, BATCH)
            await load.until(lambda: handled >= producer.accepted)
        await load.until(partial(_acknowledged, raw))
        await janitor.sweep()
        kept = int(await raw.xlen(STREAM))
        await producer.low(bus, LAG_LIMIT, BATCH)
        await load.until(lambda: handled >= producer.accepted)
        await load.until(partial(_acknowledged, raw))
        with capture_logs() as logs:
            for _ in range(2):
                await janitor.sweep()
        counted = bus.metrics.value(
            "esper_oona_groups_evicted_total", topic=load.TOPIC, group=DASHBOARD
        )
        told = [each for each in logs if each["event"] == "group_evicted"]
        left = await _group_names(raw)
    zero, one = Bar("at most", 0), Bar("at least", 1)
    missing = LAG_LIMIT - kept
    return [
        judged("dropped or pushed back beside it", float(producer.held), "", zero,
               note=f"of {LAG_LIMIT + BATCH} of low priority"),
        judged("trimmed before the group's limit", float(missing), "", zero,
               note=f"of {LAG_LIMIT}"),
        judged("evictions counted", counted, "", one),
        judged("evictions logged", float(len(told)), "", one),
        judged("groups left that nobody reads for", float(DASHBOARD in left), "", zero),
        judged("entries it still holds", float(await raw.xlen(STREAM)), "", zero),
    ]  # fmt: skip


# -- a dead required group -----------------------------------------------------------------------


async def _required(server: EmbeddedServer, raw: redis.asyncio.Redis) -> list[Row]:
    """Publish in every class while nobody reads for the required group, then have it read."""
    await _begin(raw, [load.GROUP, DASHBOARD])
    producer = _Producer()
    handled: set[str] = set()
    bound, high_water = SETTINGS.queue_bound, SETTINGS.high_water
    offered = high_water + 10 * SURPLUS
    async with _bus(server) as (bus, janitor):
        for number in range(offered):  # one by one: within a batch a measurement lags behind
            await producer.low(bus, number, 1)
        low = producer.sent
        for number in range(bound - low + SURPLUS):
            await producer.normal(bus, offered + number)
        normal = producer.sent - low
        for number in range(SURPLUS):
            await producer.passing(bus, 10_000_000 + number, critical=True)
            await producer.passing(bus, 20_000_000 + number, critical=False)
        await load.until(partial(_lie_there, raw, bound + SURPLUS))
        await _acknowledge_all(raw, DASHBOARD)
        removed = 0
        for _ in range(3):  # one that was lost is soon made anew: look after each
            await janitor.sweep()
            removed += load.GROUP not in await _group_names(raw)
        lying = int(await raw.xlen(STREAM)) + int(await raw.xlen(EMERGENCIES))
        dropped = bus.metrics.value(
            "esper_oona_publish_dropped_total", priority="low", reason="depth"
        )
        async with _hearing(bus, handled):
            await load.until(lambda: handled >= producer.accepted)
            await load.until(partial(_acknowledged, raw))
            await load.until(partial(_passes_again, bus))
            again = bool(await _passes_again(bus))
    zero = Bar("at most", 0)
    at_once_ms = 1e3 * float(np.median(producer.refused_s or [np.nan]))
    return [
        _exactly("low priority accepted", low, high_water + 1),
        _exactly("low priority dropped and counted", int(dropped), offered - high_water - 1),
        _exactly("normal priority accepted", normal, bound - high_water - 1),
        _exactly("normal priority pushed back", len(producer.refused_s), SURPLUS),
        judged("pushed back after, median", at_once_ms, "ms", Bar("at most", _AT_ONCE_MS)),
        _exactly("critical and durable accepted", len(producer.above_all), 2 * SURPLUS),
        judged("required groups removed", float(removed), "times", zero),
        judged("trimmed under it", float(len(producer.accepted) - lying), "", zero),
        judged("accepted, and not there when it came back",
               float(len(producer.accepted - handled)), "", zero,
               note=f"of {len(producer.accepted)}"),
        judged("low priority passes again", float(again), "", Bar("at least", 1)),
    ]  # fmt: skip


def _exactly(figure: str, value: int, documented: int) -> Row:
    """Judge a count that has to be what is documented, neither more nor less."""
    return judged(
        f"{figure}: off by",
        float(abs(value - documented)),
        "",
        Bar("at most", 0),
        note=f"{value}, documented {documented}",
    )


@dataclass(slots=True)
class _Producer:
    """Publishes, and keeps what was accepted and how long a refusal took."""

    accepted: set[str] = field(default_factory=set)
    above_all: set[str] = field(default_factory=set)
    held: int = 0
    sent: int = 0
    refused_s: list[float] = field(default_factory=list)

    async def low(self, bus: Bus, first: int, count: int) -> None:
        """Offer messages of low priority."""
        messages = [load.alert(first + number) for number in range(count)]
        for start in range(0, count, BATCH):
            batch = messages[start : start + BATCH]
            try:
                event_ids = await bus.publish_many(batch, priority=MESSAGE_PRIORITY_LOW)
            except Backpressure:
                event_ids = [""] * len(batch)
            taken = [each for each, event_id in zip(batch, event_ids, strict=True) if event_id]
            self._take(taken)
            self.held += len(batch) - len(taken)

    async def normal(self, bus: Bus, number: int) -> None:
        """Offer a message of normal priority."""
        message = load.alert(number)
        started = time.perf_counter()
        try:
            await bus.publish(message, priority=MESSAGE_PRIORITY_NORMAL)
        except Backpressure:
            self.refused_s.append(time.perf_counter() - started)
        else:
            self._take([message])

    async def passing(self, bus: Bus, number: int, *, critical: bool) -> None:
        """Offer a message that has to pass: a critical one, or one that must not be lost."""
        message = load.alert(number)
        priority = MESSAGE_PRIORITY_CRITICAL if critical else MESSAGE_PRIORITY_NORMAL
        try:
            await bus.publish(message, priority=priority, durable=not critical)
        except Backpressure:
            return
        self._take([message])
        self.above_all.add(message.alert_id)

    def _take(self, messages: Iterable[Alert]) -> None:
        names = [message.alert_id for message in messages]
        self.accepted.update(names)
        self.sent += len(names)


# -- around them ---------------------------------------------------------------------------------


async def _begin(raw: redis.asyncio.Redis, groups: Iterable[str]) -> None:
    await raw.flushall()
    for stream in lanes(load.TOPIC):
        for group in groups:
            await raw.xgroup_create(stream, group, id="0", mkstream=True)


@asynccontextmanager
async def _bus(server: EmbeddedServer) -> AsyncIterator[tuple[Bus, Janitor]]:
    """Open a bus with a spool, and a janitor that sweeps when it is told to."""
    with tempfile.TemporaryDirectory(prefix="esper-dead-") as scratch:
        spool = Spool(Path(scratch))
        client = connect(server.url, timeout_s=5.0)
        signer = Signer(load.KEY)
        try:
            async with Bus(
                server.url, signer=signer, source="bench", spool=spool, settings=SETTINGS
            ) as bus:
                yield bus, Janitor(client, settings=SETTINGS, metrics=bus.metrics)
        finally:
            spool.close()
            await client.aclose()


@asynccontextmanager
async def _hearing(bus: Bus, handled: set[str]) -> AsyncIterator[None]:
    async def handler(message: Alert, _envelope: object) -> None:
        handled.add(message.alert_id)

    async with load.consuming(bus, handler):
        yield


async def _acknowledged(raw: redis.asyncio.Redis) -> bool:
    """Tell whether the required group has acknowledged everything it was given."""
    pending = [await raw.xpending(stream, load.GROUP) for stream in lanes(load.TOPIC)]
    return not any(each["pending"] for each in pending)


async def _lie_there(raw: redis.asyncio.Redis, length: int) -> bool:
    return int(await raw.xlen(STREAM)) >= length


async def _acknowledge_all(raw: redis.asyncio.Redis, group: str) -> None:
    for stream in lanes(load.TOPIC):
        rows: Any = await raw.xreadgroup(group, "alive", {stream: ">"})
        for name, entries in rows:
            await raw.xack(name, group, *[entry_id for entry_id, _ in entries])


async def _passes_again(bus: Bus) -> str:
    return await bus.publish(load.alert(30_000_000), priority=MESSAGE_PRIORITY_LOW)


async def _group_names(raw: redis.asyncio.Redis) -> set[str]:
    return {row["name"].decode() for row in await raw.xinfo_groups(STREAM)}


# -- mutants -------------------------------------------------------------------------------------

_whole_trim, _whole_add = Janitor._trim, Publisher.add
_whole_observe, _whole_verdict = Pressure.observe, Pressure.verdict


def _without_required(topic: Topic) -> Topic:
    return Topic(topic.name, (), topic.retention_s)


async def _trims_for_optional(
    janitor: Janitor,
    streams: Sequence[tuple[Topic, str]],
    states: Mapping[str, Mapping[str, GroupState]],
) -> None:
    optional = {
        stream: {
            name: state
            for name, state in states[stream].items()
            if name not in topic.required_groups
        }
        for topic, stream in streams
    }
    theirs = [(_without_required(topic), stream) for topic, stream in streams if optional[stream]]
    await _whole_trim(janitor, theirs, optional)


async def _evicts_any(
    janitor: Janitor, _topic: Topic, stream: str, states: dict[str, GroupState]
) -> dict[str, GroupState]:
    for name, state in list(states.items()):
        if state.depth > LAG_LIMIT // 2:
            await janitor._client.xgroup_destroy(stream, name)
            del states[name]
    return states


async def _asks_for_all(depths: Depths, topic: Topic) -> int:
    states = await group_states(depths._client, normal_lane(topic.name), lag_limit=LAG_LIMIT)
    return max((state.depth for state in states.values()), default=0)


async def _waits_for_all(publisher: Publisher, parcels: Any) -> None:
    await _whole_add(publisher, parcels)
    if len(parcels) > 1:  # single ones, too, would take the mutant minutes
        states = await group_states(publisher._client, STREAM, lag_limit=1)
        if DASHBOARD in states and states[DASHBOARD].depth:
            await asyncio.sleep(0.015)


@contextmanager
def _optional_as_required() -> Iterator[None]:
    with (
        replaced("esper_async.oona.depths.Depths._ask", _asks_for_all),
        replaced("esper_async.oona.publisher.Publisher.add", _waits_for_all),
    ):
        yield


def _treats_all_alike(pressure: Pressure, _priority: Any) -> Verdict:
    verdict = _whole_verdict(pressure, MESSAGE_PRIORITY_NORMAL)
    if verdict is Verdict.PUSH_BACK:
        time.sleep(0.02)
    return verdict


def _knows_no_bound(pressure: Pressure, priority: Any) -> Verdict:
    verdict = _whole_verdict(pressure, priority)
    return Verdict.ADMIT if verdict is Verdict.PUSH_BACK else verdict


def _stays_conservative(pressure: Pressure, depth: int) -> None:
    before = pressure.conservative
    _whole_observe(pressure, depth)
    pressure.conservative |= before


@contextmanager
def _without_bound_or_end() -> Iterator[None]:
    with (
        replaced("esper_async.oona.pressure.Pressure.verdict", _knows_no_bound),
        replaced("esper_async.oona.pressure.Pressure.observe", _stays_conservative),
    ):
        yield


BENCHMARK = Benchmark(
    name="bus-dead-groups",
    question="what does a producer notice of a group that nobody reads for any more?",
    gross_mutants=True,
    measure=measure,
    mutants=(
        Mutant(
            "trimmed below what optional groups acknowledged",
            "the janitor does not ask what the required group has acknowledged",
            lambda: replaced("esper_async.oona.janitor.Janitor._trim", _trims_for_optional),
            fails=(
                "entries it still holds",
                "trimmed under it",
                "accepted, and not there when it came back",
            ),
        ),
        Mutant(
            "evicted in silence, and required groups, too",
            "any group is removed at half the limit, without a count and without a log",
            lambda: replaced("esper_async.oona.janitor.Janitor._evict", _evicts_any),
            fails=(
                "trimmed before the group's limit",
                "evictions counted",
                "evictions logged",
                "required groups removed",
            ),
        ),
        Mutant(
            "optional groups push back",
            "a topic is as deep as its slowest group of any kind says, and publishing waits for it",
            _optional_as_required,
            fails=(
                _BESIDE,
                "dropped or pushed back beside it",
                "groups left that nobody reads for",
            ),
        ),
        Mutant(
            "all classes are alike",
            "at the bound everything is pushed back, late, and nothing dropped before",
            lambda: replaced("esper_async.oona.pressure.Pressure.verdict", _treats_all_alike),
            fails=(
                "low priority accepted: off by",
                "low priority dropped and counted: off by",
                "normal priority accepted: off by",
                "pushed back after, median",
                "critical and durable accepted: off by",
            ),
        ),
        Mutant(
            "no bound, and no end",
            "nobody is pushed back, and what was conservative once stays so",
            _without_bound_or_end,
            fails=("normal priority pushed back: off by", "low priority passes again"),
        ),
    ),
)
