"""Does a consumer stand whatever bytes come, does it count what it refuses, and stay as it is?

Real consumers read a real server, a block at a time: a block is sent once the one before has been
read and the janitor has swept. First come messages of which is known what must become of each, on
the topic of the commands, which refuses for the most reasons; then signed messages with damage
inside, on several topics, of which only the sum is known.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import structlog

from esper_async.leyline import LIMITS, TOPICS, Admission, NonceStore, Refusal, Refused, Signer
from esper_async.oona import EmbeddedServer
from esper_async.oona.connection import Client, connect
from esper_async.oona.consumer import Consumer
from esper_async.oona.delivery import Delivery, Entry
from esper_async.oona.groups import group_states
from esper_async.oona.janitor import Janitor
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.streams import (
    LETTER_STREAMS,
    WIRE_FIELD,
    emergency_lane,
    normal_lane,
    parse_id,
)
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
)
from esper_async.study.bench.fuzzed_messages import NOW, VALID, Fuzzer, Sample

KEPT = 1_000
SETTINGS = replace(
    load.SETTINGS, command_timeout_s=30.0, dead_letters_kept=KEPT, expendable_entries=KEPT
)
MOST_GROWTH_MIB, MOST_SERVER_GROWTH_MIB = 16.0, 3.0
"""A consumer remembers 10 000 event ids; what it forgets, the allocator does not all give back."""
FOR_PEOPLE = (
    Refusal.FORGED,
    Refusal.MALFORMED,
    Refusal.WRONG_VERSION,
    Refusal.UNKNOWN_TYPE,
    Refusal.INVALID,
)
_BLOCK, _CAPACITY, _BEYOND, _PIPELINE = 2_000, 1_000, 200, 250
_PATIENCE_S = 30.0
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Extent:
    """How many messages of either sort, overloading ones left out."""

    known: int
    damaged: int


_EXTENTS = {Effort.SHORT: Extent(40_000, 10_000), Effort.FULL: Extent(800_000, 200_000)}


@dataclass(slots=True)
class Bout:
    """What was sent to some consumers, what must become of it, and what did."""

    effects: bytearray = field(default_factory=bytearray)
    sent: int = 0
    expected: Counter[str] = field(default_factory=Counter)
    handled: int = 0
    acted_wrongly: int = 0
    ended: int = 0
    left: int = 0
    grown_bytes: int = 0
    server_grown_bytes: int = 0
    metrics: BusMetrics = field(default_factory=BusMetrics)
    nonces_now_s: float = 0.0

    async def command(self, message: Any, _envelope: object) -> None:
        """Take a message of which is known whether it may come here."""
        self.handled += 1
        number = message.command_id.removeprefix(VALID)
        if number.isdigit() and int(number) < len(self.effects):
            self.effects[int(number)] += 1
        else:
            self.acted_wrongly += 1

    async def any(self, _message: object, _envelope: object) -> None:
        """Take a message that may come here if it has been found whole."""
        self.handled += 1

    def counted(self, name: str, by: str) -> Counter[str]:
        """Return a counter of the metrics by one of its labels."""
        found: Counter[str] = Counter()
        for family in self.metrics.registry.collectors.collect():
            for sample in family.samples:
                if sample.name == f"esper_oona_{name}_total":
                    found[sample.labels[by]] += int(sample.value)
        return found


def measure(effort: Effort) -> list[Row]:
    """Send everything and look at what became of it."""
    with Path("/dev/null").open("w") as nowhere:  # what is logged costs what it costs, unseen
        before = structlog.get_config()
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(nowhere))
        try:
            return asyncio.run(_measure(_EXTENTS[effort]))
        finally:
            structlog.configure(**before)


async def _measure(extent: Extent) -> list[Row]:
    fuzzer = Fuzzer(1, Signer(load.KEY), Signer(bytes(32)))
    began = time.perf_counter()
    async with load.running_server() as server:
        client = connect(server.url, timeout_s=SETTINGS.command_timeout_s)
        try:
            known = Bout(bytearray(_CAPACITY + extent.known))
            await _run(server, client, known, ["commands"], _known(fuzzer, known, extent.known))
            damaged = Bout()
            topics = ["commands", "field_reports", "system_state", "telemetry", "alerts"]
            await _run(server, client, damaged, topics, _damaged(fuzzer, extent.damaged))
            letters = [int(await client.xlen(stream)) for stream in LETTER_STREAMS.values()]
        finally:
            await client.aclose()
    took_s = time.perf_counter() - began
    return _rows(known, damaged, fuzzer.valid, letters, took_s)


Block = list[tuple[str, bytes]]


def _known(fuzzer: Fuzzer, bout: Bout, count: int) -> Iterator[Block]:
    """Yield blocks for the topic of the commands, and note what must become of them.

    One in ten rides the emergency lane. It may overtake another of the same nonce: one of the two
    is handled then, and the other refused. The first block is in order, to say who comes too late.
    """
    normal, emergency = normal_lane("commands"), emergency_lane("commands")
    samples = fuzzer.overloading(_CAPACITY, _BEYOND)
    bout.expected.update(_refusals(samples))
    yield [(normal, sample.wire) for sample in samples]
    for start in range(0, count, _BLOCK):
        samples = fuzzer.known(min(_BLOCK, count - start))
        bout.expected.update(_refusals(samples))
        lanes = itertools.cycle((emergency, *9 * [normal]))
        yield [(lane, sample.wire) for lane, sample in zip(lanes, samples, strict=False)]


def _refusals(samples: list[Sample]) -> list[str]:
    return [sample.refusal.value for sample in samples if sample.refusal is not None]


def _damaged(fuzzer: Fuzzer, count: int) -> Iterator[Block]:
    for start in range(0, count, _BLOCK):
        block = fuzzer.damaged(min(_BLOCK, count - start))
        yield [(normal_lane(topic), wire) for topic, wire in block]


async def _run(
    server: EmbeddedServer, client: Client, bout: Bout, topics: Sequence[str], blocks: Any
) -> None:
    """Send the blocks to one consumer a topic, until one of them has ended."""
    janitor = Janitor(client, settings=SETTINGS, metrics=bout.metrics)
    async with _consuming(server, bout, topics) as tasks:
        at_first: tuple[int, int] | None = None
        for block in blocks:
            last = await _send(client, block)
            bout.sent += len(block)
            if not await _drained(client, topics, last, tasks):
                break
            await janitor.sweep()
            bout.nonces_now_s += LIMITS.nonce_lifetime_s + 1.0
            now = (_resident_bytes(), int((await client.info("memory"))["used_memory"]))
            at_first = at_first or now
            bout.grown_bytes = max(bout.grown_bytes, now[0] - at_first[0])
            bout.server_grown_bytes = max(bout.server_grown_bytes, now[1] - at_first[1])
        bout.ended = sum(task.done() for task in tasks)
    bout.ended += int(bout.counted("reconnects", "role")["consumer"])
    for topic in topics:
        for stream in (normal_lane(topic), emergency_lane(topic)):
            states = await group_states(client, stream, lag_limit=10**6)
            bout.left += sum(state.depth for state in states.values())


@asynccontextmanager
async def _consuming(
    server: EmbeddedServer, bout: Bout, topics: Sequence[str]
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Consume each topic for a block; what a consumer fails with is for the rows to tell."""
    tasks = []
    nonces = NonceStore(capacity=_CAPACITY, now=lambda: bout.nonces_now_s)
    for topic in topics:
        required = TOPICS[topic].required_groups
        consumer = Consumer(
            server.url,
            topic=topic,
            group=required[0] if required else "fuzz",
            consumer="fuzz",
            handler=bout.command if bout.effects else bout.any,
            optional=not required,
            admission=Admission(Signer(load.KEY), now=lambda: NOW, nonces=nonces),
            settings=SETTINGS,
            metrics=bout.metrics,
        )
        tasks.append(asyncio.create_task(consumer.run()))
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _send(client: Client, block: Block) -> dict[str, bytes]:
    """Put a block on its streams; return the last entry of each."""
    last: dict[str, bytes] = {}
    for start in range(0, len(block), _PIPELINE):
        part = block[start : start + _PIPELINE]
        async with client.pipeline(transaction=False) as pipeline:
            for stream, wire in part:
                pipeline.xadd(stream, {WIRE_FIELD: wire})
            ids = await pipeline.execute()
        last |= {stream: entry_id for (stream, _), entry_id in zip(part, ids, strict=True)}
    return last


async def _drained(
    client: Client, topics: Sequence[str], last: dict[str, bytes], tasks: list[Any]
) -> bool:
    """Wait until all is acknowledged; tell whether it came to that."""
    give_up = time.monotonic() + _PATIENCE_S
    waiting = dict(last)
    while waiting and not any(task.done() for task in tasks) and time.monotonic() < give_up:
        await asyncio.sleep(0.01)
        for stream, entry_id in list(waiting.items()):
            states = await group_states(client, stream, lag_limit=1)
            if all(state.acknowledged(parse_id(entry_id)) for state in states.values()):
                del waiting[stream]
    return not waiting


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def _rows(
    known: Bout, damaged: Bout, valid: int, letters: Sequence[int], took_s: float
) -> list[Row]:
    both = (known, damaged)
    sent = known.sent + damaged.sent
    return [
        *_accounts(known, damaged),
        _none("valid messages not handled exactly once", valid - known.effects.count(1), valid),
        _none("messages acted on that must be refused", known.acted_wrongly),
        _none("messages left unacknowledged", known.left + damaged.left),
        _none("consumers that ended or began anew", known.ended + damaged.ended),
        judged(
            "the consumers' memory grew by",
            max(bout.grown_bytes for bout in both) / _MIB,
            "MiB",
            Bar("at most", MOST_GROWTH_MIB),
            note="resident, beyond the first block",
        ),
        judged(
            "the server's memory grew by",
            max(bout.server_grown_bytes for bout in both) / _MIB,
            "MiB",
            Bar("at most", MOST_SERVER_GROWTH_MIB),
            note="beyond the first block",
        ),
        _none(
            f"dead letters beyond the newest {KEPT} of a kind",
            sum(max(0, count - KEPT) for count in letters),
            sum(bout.counted("dead_letters", "group").total() for bout in both),
        ),
        shown("messages", sent / took_s, "/s", note="made, sent, and handled or refused"),
    ]


def _accounts(known: Bout, damaged: Bout) -> list[Row]:
    """Return the rows that hold what was sent against what was counted."""
    both = (known, damaged)
    refused = known.counted("refused", "reason")
    refused_in_all = refused + damaged.counted("refused", "reason")
    sent = known.sent + damaged.sent
    absorbed = sum(bout.counted("duplicates", "group").total() for bout in both)
    accounted = known.handled + damaged.handled + absorbed + refused_in_all.total()
    off = {reason: abs(refused[reason] - known.expected[reason]) for reason in Refusal}
    for_people = sum(refused_in_all[reason] for reason in FOR_PEOPLE)
    set_aside = sum(bout.counted("dead_letters", "group").total() for bout in both)
    unseen = [reason for reason in Refusal if not refused[reason]]
    told = ", ".join(f"{reason.value} {refused[reason]}" for reason in Refusal)
    return [
        _none("messages neither handled, absorbed, nor refused", abs(sent - accounted), sent),
        judged(
            "refusals not counted under their reason",
            float(sum(off.values())),
            "",
            Bar("at most", 0),
            note=told,
        ),
        _none("reasons that did not occur", len(unseen), len(Refusal)),
        _none("kept for people, and not set aside", abs(for_people - set_aside), for_people),
    ]


def _none(figure: str, value: float, of: int | None = None) -> Row:
    """Judge a count that must be 0."""
    note = "" if of is None else f"of {of}"
    return judged(figure, float(value), "", Bar("at most", 0), note=note)


# -- mutants -------------------------------------------------------------------------------------

_REFUSE = "esper_async.oona.delivery.Delivery._refuse"
_FEW = Extent(4_000, 2_000)
_whole_refuse, _whole_attempt = Delivery._refuse, Delivery._attempt


@contextmanager
def _broken(target: str, replacement: object, extent: Extent = _FEW) -> Iterator[None]:
    """Break something, and send as many messages as it takes to see it."""
    with replaced(target, replacement), mock.patch.dict(_EXTENTS, {Effort.SHORT: extent}):
        yield


class _Uncounted:
    def add(self, *_: Any, **__: Any) -> None:
        """Count nothing."""


async def _refuses_in_silence(delivery: Delivery, entry: Entry, refused: Refused) -> None:
    metrics: Any = delivery._metrics
    counter, metrics.refused = metrics.refused, _Uncounted()
    try:
        await _whole_refuse(delivery, entry, refused)
    finally:
        metrics.refused = counter


@contextmanager
def _keeping_what_is_refused() -> Iterator[None]:
    kept: list[Entry] = []

    async def keeps(delivery: Delivery, entry: Entry, refused: Refused) -> None:
        kept.append(entry)
        await _whole_refuse(delivery, entry, refused)

    with _broken(_REFUSE, keeps, Extent(30_000, 6_000)):
        yield


async def _dies_of_it(_delivery: Delivery, _entry: Entry, refused: Refused) -> None:
    raise refused


async def _throws_away(delivery: Delivery, entry: Entry, refused: Refused) -> None:
    if refused.reason is not Refusal.FORGED:
        await _whole_refuse(delivery, entry, refused)
        return
    delivery._metrics.refused.add(topic=delivery._topic, reason=refused.reason.value)
    await delivery._acknowledge(entry)


async def _handles_twice(
    delivery: Delivery, entry: Entry, message: Any, envelope: Any, attempt: int
) -> None:
    await delivery._handler(message, envelope)
    await _whole_attempt(delivery, entry, message, envelope, attempt)


async def _trims_nothing(_janitor: Janitor) -> None:
    """Leave the dead letters as many as they are."""


BENCHMARK = Benchmark(
    name="bus-fuzz",
    question="does a consumer stand whatever bytes come, and say what became of them?",
    measure=measure,
    mutants=(
        Mutant(
            "verifying says yes",
            "every signature is taken for ours",
            lambda: _broken("esper_async.leyline.signing.Signer.verify", lambda *_: True),
            fails=(
                "refusals not counted under their reason",
                "messages acted on that must be refused",
            ),
        ),
        Mutant(
            "refused without a count",
            "the metric of refusals stays where it is",
            lambda: _broken(_REFUSE, _refuses_in_silence),
            fails=(
                "messages neither handled, absorbed, nor refused",
                "refusals not counted under their reason",
                "reasons that did not occur",
            ),
        ),
        Mutant(
            "what is refused is kept in memory",
            "the consumer holds on to every entry that it refuses",
            _keeping_what_is_refused,
            fails=("the consumers' memory grew by",),
        ),
        Mutant(
            "a refusal kills the consumer",
            "what must not be acted on ends whoever reads it",
            lambda: _broken(_REFUSE, _dies_of_it),
            fails=(
                "messages neither handled, absorbed, nor refused",
                "messages left unacknowledged",
                "consumers that ended or began anew",
            ),
        ),
        Mutant(
            "forged ones are thrown away",
            "what a missing key makes unreadable is acknowledged and gone",
            lambda: _broken(_REFUSE, _throws_away),
            fails=("kept for people, and not set aside",),
        ),
        Mutant(
            "handled twice",
            "the handler is called once too often for each message",
            lambda: _broken("esper_async.oona.delivery.Delivery._attempt", _handles_twice),
            fails=("valid messages not handled exactly once",),
        ),
        Mutant(
            "dead letters without a bound",
            "the janitor trims none of them",
            lambda: _broken(
                "esper_async.oona.janitor.Janitor._bound_dead_letters",
                _trims_nothing,
                Extent(30_000, 0),
            ),
            fails=("the server's memory grew by", "dead letters beyond the newest *"),
        ),
    ),
    timed=False,
)
