"""What becomes of messages that nobody can handle, and what do they cost the others?

One message in a hundred makes its handler fail each time. That is much: it is every message of a
rare kind, sent by a producer of another version. The others' handler works a quarter of a
millisecond, as one does that keeps something; beside a handler that does nothing the failures
themselves weigh more, which is shown. Streams without poison are read before and after.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import redis.asyncio
import structlog

from esper_async.leyline import Alert, Signer, wrap
from esper_async.leyline.limits import LIMITS
from esper_async.oona import Bus, DeadLetters, EmbeddedServer
from esper_async.oona.connection import connect
from esper_async.oona.dead_letters import dead_letter_fields
from esper_async.oona.delivery import Delivery
from esper_async.oona.streams import DEAD_LETTERS, WIRE_FIELD, lanes, normal_lane
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

POISON_EVERY, LEAST_RATE, WORK_S = 100, 0.9, 0.00025
STREAM = normal_lane(load.TOPIC)
SETTINGS = replace(load.SETTINGS, retry_base_s=0.02, retry_cap_s=0.04)
"""Retries that fall due while the good messages are still being read, not when all is over."""
_REASON = "ValueError: poison"
_PATIENCE_S = 120.0


_BESIDE = "good messages handled beside poison"


@dataclass(frozen=True, slots=True)
class Extent:
    """How many rounds, and how many good messages a lap reads with either handler."""

    rounds: int
    idle_rounds: int
    good: int
    idle_good: int


_EXTENTS = {Effort.SHORT: Extent(6, 4, 594, 990), Effort.FULL: Extent(20, 20, 4_950, 19_800)}


@dataclass(slots=True)
class Fate:
    """What became of the messages of all poisoned laps."""

    poison: int = 0
    good: int = 0
    as_documented: int = 0
    handled_once: int = 0
    pending: int = 0


@dataclass(slots=True)
class Handler:
    """Works on good messages, fails on the others, and remembers when it was done."""

    good: int
    work_s: float
    first: float = 0.0
    last: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    _seen: int = 0

    async def __call__(self, message: Alert, _envelope: object) -> None:
        """Handle one message. Raises ValueError for poison."""
        self.calls[message.alert_id] += 1
        if message.name == "poison":
            raise ValueError("poison")
        if self.work_s:
            time.sleep(self.work_s)  # noqa: ASYNC251 - a handler at work, which the loop feels
        self._seen += 1
        self.first = self.first or time.perf_counter()
        if self._seen == self.good:
            self.last = time.perf_counter()
            self.done.set()


def measure(effort: Effort) -> list[Row]:
    """Read streams without and with poison in turn."""
    with Path("/dev/null").open("w") as nowhere:  # what is logged costs what it costs, unseen
        before = structlog.get_config()
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(nowhere))
        try:
            return asyncio.run(_measure(_EXTENTS[effort]))
        finally:
            structlog.configure(**before)


async def _measure(extent: Extent) -> list[Row]:
    fate = Fate()
    async with load.running_server() as server:
        raw = redis.asyncio.Redis.from_url(server.url)
        try:
            lap = partial(_lap, server, raw, fate)
            rounds, idle_rounds = extent.rounds, extent.idle_rounds
            if not wants(_BESIDE):  # what becomes of messages shows in one
                rounds = idle_rounds = 1
            busy = await _compare(partial(lap, extent.good, WORK_S), rounds)
            idle = await _compare(partial(lap, extent.idle_good, 0.0), idle_rounds)
        finally:
            await raw.aclose()
    zero = Bar("at most", 0)
    share = f"one message in {POISON_EVERY} is poison"
    return [
        load.rate_row(_BESIDE, busy, extent.good - 1, LEAST_RATE, note=share),
        shown(
            "the same, by a handler that does nothing",
            1.0 / idle.ratio.value,
            "of normal",
            note=f"{1.0 / idle.ratio.high:.2f} to {1.0 / idle.ratio.low:.2f}",
        ),
        judged(
            f"poison not set aside with its reason after {LIMITS.retries} attempts",
            float(fate.poison - fate.as_documented),
            "",
            zero,
            note=f"of {fate.poison}",
        ),
        judged(
            "good messages not handled exactly once",
            float(fate.good - fate.handled_once),
            "",
            zero,
            note=f"of {fate.good}",
        ),
        judged("messages left unacknowledged", float(fate.pending), "", zero),
    ]


async def _compare(lap: Callable[[int], Awaitable[float]], rounds: int) -> Comparison:
    """Time laps without, with and without poison in turn; the first round warms up."""
    timed = Rounds()
    for number in range(1 + rounds):
        for every, laps in ((0, timed.before), (POISON_EVERY, timed.middle), (0, timed.after)):
            took_s = await lap(every)
            if number:
                laps.append(Lap(0.0, took_s))
    return timed.compare("wall_s")


async def _lap(
    server: EmbeddedServer,
    raw: redis.asyncio.Redis,
    fate: Fate,
    good: int,
    work_s: float,
    poison_every: int,
) -> float:
    """Read `good` good messages and the poison among them; return the seconds the good ones took.

    From the first that was handled to the last.
    """
    await raw.flushall()
    poison = await _fill(raw, good, poison_every)
    handler = Handler(good, work_s)
    bus = Bus(server.url, signer=Signer(load.KEY), source="bench", settings=SETTINGS)
    async with bus, load.consuming(bus, handler):
        async with asyncio.timeout(_PATIENCE_S):
            await handler.done.wait()
        await load.until(partial(_lie_there, raw, poison))
    if poison:
        fate.poison, fate.good = fate.poison + poison, fate.good + good
        fate.handled_once += sum(
            calls == 1 for name, calls in handler.calls.items() if not name.startswith("p")
        )
        fate.as_documented += await _set_aside(server, handler)
        fate.pending += int((await raw.xpending(STREAM, load.GROUP))["pending"])
    return handler.last - handler.first


async def _fill(raw: redis.asyncio.Redis, good: int, poison_every: int) -> int:
    """Put good messages on the stream, and poison among them so that it is one in so many."""
    signer, poison = Signer(load.KEY), 0
    pipeline = raw.pipeline(transaction=False)
    for number in range(good):
        messages = [load.alert(number)]
        if poison_every and number % (poison_every - 1) == 0:
            messages.append(Alert(version=1, alert_id=f"p{number}", name="poison"))
            poison += 1
        for message in messages:
            pipeline.xadd(STREAM, {WIRE_FIELD: wrap(message, source="bench", signer=signer)})
    await pipeline.execute()
    for stream in lanes(load.TOPIC):
        await raw.xgroup_create(stream, load.GROUP, id="0", mkstream=True)
    return poison


async def _lie_there(raw: redis.asyncio.Redis, poison: int) -> bool:
    return int(await raw.xlen(DEAD_LETTERS)) >= poison


async def _set_aside(server: EmbeddedServer, handler: Handler) -> int:
    """Return how many were set aside once, after all their attempts and with their reason."""
    client = connect(server.url, timeout_s=5.0)
    try:
        letters = await DeadLetters(client).list(limit=100_000)
    finally:
        await client.aclose()
    tried = [calls for name, calls in handler.calls.items() if name.startswith("p")]
    told = [each for each in letters if (each.reason, each.attempts) == (_REASON, LIMITS.retries)]
    return min(len(told), sum(calls == LIMITS.retries for calls in tried))


# -- mutants -------------------------------------------------------------------------------------

_whole_failed, _whole_attempt = Delivery._failed, Delivery._attempt


async def _waits_in_place(delivery: Delivery, *failure: Any) -> None:
    await _whole_failed(delivery, *failure)
    while delivery._waiting:
        await asyncio.sleep(delivery.next_due_s() + 0.05)
        while delivery.is_due:
            await delivery.retry()


async def _gives_up(
    delivery: Delivery, entry: Any, envelope: Any, _attempt: int, error: Exception
) -> None:
    await _whole_failed(delivery, entry, envelope, LIMITS.retries, error)


async def _handles_again(
    delivery: Delivery, entry: Any, message: Any, envelope: Any, attempt: int, put_off: int = 0
) -> None:
    if message.name == "poison":
        await _whole_attempt(delivery, entry, message, envelope, attempt, put_off)
        return
    for _ in range(2):
        await delivery._handler(message, envelope)


def _without_reason(wire: bytes, **what: Any) -> dict[Any, Any]:
    return dead_letter_fields(wire, **(what | {"reason": ""}))


BENCHMARK = Benchmark(
    name="bus-poison",
    question="what becomes of messages that nobody can handle, and what do they cost the others?",
    gross_mutants=True,
    measure=measure,
    mutants=(
        Mutant(
            "poison blocks the line",
            "whoever fails is waited for and tried again in place",
            lambda: replaced("esper_async.oona.delivery.Delivery._failed", _waits_in_place),
            fails=(_BESIDE,),
        ),
        Mutant(
            "given up at once",
            "a message is set aside at its first failure",
            lambda: replaced("esper_async.oona.delivery.Delivery._failed", _gives_up),
            fails=("poison not set aside with its reason *",),
        ),
        Mutant(
            "set aside without a word",
            "dead letters have no reason",
            lambda: replaced("esper_async.oona.delivery.dead_letter_fields", _without_reason),
            fails=("poison not set aside with its reason *",),
        ),
        Mutant(
            "handled again instead of acknowledged",
            "a good message is handled twice, and then stays with the consumer",
            lambda: replaced("esper_async.oona.delivery.Delivery._attempt", _handles_again),
            fails=("good messages not handled exactly once", "messages left unacknowledged"),
        ),
    ),
)
