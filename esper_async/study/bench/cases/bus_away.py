"""What does a producer notice of a Redis that is away, and what becomes of what it said meanwhile?

A child's bridge is given 200 messages a second, one in ten of them durable, while the server is
killed and stays away. Whoever offers a message must not wait for Redis; what is durable must
arrive, and of the rest every one must arrive or be counted as dropped.
"""

import asyncio
import signal
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from esper_async.leyline import FieldReport, FieldReportOutcome, Signer, TelemetryPacket
from esper_async.oona import Bridge, BridgeReport, Bus, EmbeddedServer
from esper_async.oona.connection import ReconnectGate
from esper_async.oona.outbox import Outbox, Parcel
from esper_async.oona.spool import Spool
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

RATE_PER_S, DURABLE_EVERY = 200, 10
MOST_HELD_MS, MOST_GROWTH_MIB, MOST_DRAIN_S = 5.0, 64.0, 10.0
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """How long Redis is away, and for how many messages the bridge has room.

    Draining may take `patience_s`, longer than its bar: what has not arrived then counts as lost.
    """

    away_s: float
    queue_entries: int
    patience_s: float


_PLANS = {
    Effort.SHORT: Plan(4.0, 300, 1.2 * MOST_DRAIN_S),
    Effort.FULL: Plan(60.0, 4_096, 3 * MOST_DRAIN_S),
}


@dataclass(slots=True)
class Told:
    """What the producer did and noticed."""

    offered: int = 0
    spooled: set[str] = field(default_factory=set)
    offering_ms: list[float] = field(default_factory=list)
    spooling_ms: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Heard:
    """What came out at the other end."""

    packets: set[str] = field(default_factory=set)
    reports: set[str] = field(default_factory=set)

    async def packet(self, message: TelemetryPacket, _envelope: Any) -> None:
        """Take in one that may be dropped."""
        self.packets.add(message.packet_id)

    async def report(self, message: FieldReport, _envelope: Any) -> None:
        """Take in a durable one."""
        self.reports.add(message.report_id)


def measure(effort: Effort) -> list[Row]:
    """Take Redis away from a producer and give it back."""
    return asyncio.run(_measure(_PLANS[effort]))


async def _measure(plan: Plan) -> list[Row]:
    heard, told = Heard(), Told()
    with tempfile.TemporaryDirectory(prefix="esper-away-") as scratch:
        async with load.running_server() as server:
            bridge = Bridge(
                server.url, Path(scratch), load.KEY, "bench", queue_entries=plan.queue_entries
            ).start()
            try:
                async with _listening(server, heard):
                    await asyncio.to_thread(_produce, bridge, told, 1.0)
                    server.signal(signal.SIGKILL)
                    await server.wait()
                    before = _resident_bytes()
                    with _Lateness() as lateness:
                        await asyncio.to_thread(_produce, bridge, told, plan.away_s)
                    growth = _resident_bytes() - before
                    await server.start()
                    drain_s = await _drained(bridge, told, heard, plan.patience_s)
            finally:
                report = await asyncio.to_thread(bridge.close)
    return _rows(plan, told, heard, report, lateness.longest_ms, growth / _MIB, drain_s)


def _rows(
    plan: Plan,
    told: Told,
    heard: Heard,
    report: BridgeReport,
    late_ms: float,
    growth_mib: float,
    drain_s: float,
) -> list[Row]:
    held = max(told.offering_ms)
    noise = f"a thread that only slept was late by {late_ms:.1f} ms itself"
    innocent = MOST_HELD_MS < held <= MOST_HELD_MS + late_ms
    dropped = sum(report.dropped.values())
    unaccounted = abs(told.offered - len(heard.packets) - dropped)
    zero = Bar("at most", 0)
    return [
        judged(
            "longest that an offer held its caller",
            held,
            "ms",
            Bar("at most", MOST_HELD_MS),
            note=f"Redis away for {plan.away_s:g} s; {noise}",
            doubt=noise if innocent else "",
        ),
        shown("longest that writing a durable one to disk took", max(told.spooling_ms), "ms"),
        judged("memory grew by", growth_mib, "MiB", Bar("at most", MOST_GROWTH_MIB)),
        judged("drained after its return in", drain_s, "s", Bar("at most", MOST_DRAIN_S)),
        judged("durable messages lost", float(len(told.spooled - heard.reports)), "", zero,
               note=f"of {len(told.spooled)}"),
        judged("others neither heard nor counted", float(unaccounted), "", zero,
               note=f"{told.offered} offered, {dropped} dropped"),
    ]  # fmt: skip


def _produce(bridge: Bridge, told: Told, for_s: float) -> None:
    """Hand over messages at a steady rate; runs in a thread of its own, as training would."""
    outcome = FieldReportOutcome.Value("FIELD_REPORT_OUTCOME_NEUTRAL")
    begun = time.perf_counter()
    for number in range(int(RATE_PER_S * for_s)):
        time.sleep(max(0.0, begun + number / RATE_PER_S - time.perf_counter()))
        if number % DURABLE_EVERY == 0:
            name = f"r{len(told.spooled)}"
            message = FieldReport(version=1, report_id=name, run_id="bench", outcome=outcome)
            started = time.perf_counter()
            bridge.spool(message)
            told.spooling_ms.append(1e3 * (time.perf_counter() - started))
            told.spooled.add(name)
        else:
            packet = TelemetryPacket(version=1, packet_id=f"t{told.offered}", source="bench")
            started = time.perf_counter()
            bridge.offer(packet)
            told.offering_ms.append(1e3 * (time.perf_counter() - started))
            told.offered += 1


async def _drained(bridge: Bridge, told: Told, heard: Heard, patience_s: float) -> float:
    """Return how many seconds it took until the backlog was gone, or until patience was."""
    started = time.perf_counter()
    while time.perf_counter() - started < patience_s:
        waiting = len(bridge._outbox) or len(bridge._spool)
        arrived = len(heard.packets) + bridge._outbox.dropped.total() >= told.offered
        if not waiting and arrived and heard.reports >= told.spooled:
            break
        await asyncio.sleep(0.01)
    return time.perf_counter() - started


class _Lateness:
    """By how much a thread that does nothing but sleep is late: the machine's own doing."""

    def __init__(self) -> None:
        self.longest_ms = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sleep, daemon=True)

    def __enter__(self) -> "_Lateness":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sleep(self) -> None:
        while True:
            due = time.perf_counter() + 0.001
            if self._ended.wait(0.001):
                return
            self.longest_ms = max(self.longest_ms, 1e3 * (time.perf_counter() - due))


@asynccontextmanager
async def _listening(server: EmbeddedServer, heard: Heard) -> AsyncIterator[None]:
    """Consume both topics for a block."""
    async with Bus(server.url, signer=Signer(load.KEY), source="ears") as bus:
        tasks = [
            asyncio.create_task(
                bus.consume("telemetry", "ears", heard.packet, consumer="a", optional=True)
            ),
            asyncio.create_task(bus.consume("field_reports", "simic", heard.report, consumer="a")),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


# -- mutants -------------------------------------------------------------------------------------

_whole_offer, _whole_put, _whole_append = Bridge.offer, Outbox.put, Spool.append


def _waits_for_redis(bridge: Bridge, message: Any, **options: Any) -> bool:
    accepted = _whole_offer(bridge, message, **options)
    patience_s = 1.0 if bridge._outbox.offered % 150 == 0 else 0.0  # or the mutant takes for ever
    give_up = time.monotonic() + patience_s
    while len(bridge._outbox) and time.monotonic() < give_up:
        time.sleep(0.001)
    return accepted


def _drops_silently(outbox: Outbox, parcel: Parcel) -> bool:
    dropped = outbox.dropped.copy()
    accepted = _whole_put(outbox, parcel)
    outbox.dropped = dropped
    return accepted


@contextmanager
def _without_bound() -> Iterator[None]:
    burdens: list[bytes] = []

    def takes_all(outbox: Outbox, parcel: Parcel) -> bool:
        burdens.append(b"x" * (_MIB // 4))
        with mock.patch.multiple(outbox, _entries_limit=10**9, _bytes_limit=10**12):
            return _whole_put(outbox, parcel)

    with replaced("esper_async.oona.outbox.Outbox.put", takes_all):
        yield


async def _rests(_gate: ReconnectGate, _error: Exception) -> None:
    await asyncio.sleep(60.0)


def _takes_some(spool: Spool, *, event_id: str, **entry: Any) -> bool:
    return event_id[-1] in "02468" or _whole_append(spool, event_id=event_id, **entry)


BENCHMARK = Benchmark(
    name="bus-away",
    question="what does a producer notice of a Redis that is away, and what is lost?",
    gross_mutants=True,
    measure=measure,
    mutants=(
        Mutant(
            "the caller waits for Redis",
            "now and then an offer returns when it was published, or after a second",
            lambda: replaced("esper_async.oona.bridge.Bridge.offer", _waits_for_redis),
            fails=("longest that an offer held its caller",),
        ),
        Mutant(
            "drops are not counted",
            "a full queue refuses without saying so",
            lambda: replaced("esper_async.oona.outbox.Outbox.put", _drops_silently),
            fails=("others neither heard nor counted",),
        ),
        Mutant(
            "the queue has no bound",
            "everything is taken, and each message holds on to 256 KiB",
            _without_bound,
            fails=("memory grew by",),
        ),
        Mutant(
            "Redis is looked for once a minute",
            "whoever found it away rests for a minute",
            lambda: replaced("esper_async.oona.connection.ReconnectGate.pause", _rests),
            fails=("drained after its return in",),
        ),
        Mutant(
            "the spool takes every other one",
            "the rest is not on disk, though the caller was told so",
            lambda: replaced("esper_async.oona.spool.Spool.append", _takes_some),
            fails=("durable messages lost",),
        ),
    ),
)
