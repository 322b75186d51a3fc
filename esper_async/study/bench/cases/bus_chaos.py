"""Does the bus lose anything? Durable messages under every fault, to consumers that are killed.

Three consumers, each a process, share one group and one ledger. While messages are published, the
server is killed and started again, frozen, and emptied while its consumers are not looking;
consumers are killed; connections are cut; and some that took effect are published again, as
by a run that resumes. At the end every message must have taken effect once.
"""

import asyncio
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper_async.leyline import FieldReport, FieldReportOutcome, Signer
from esper_async.oona import Bus, EmbeddedServer, Spool
from esper_async.oona.connection import Client, connect
from esper_async.oona.courier import Courier
from esper_async.oona.errors import FAULTS
from esper_async.oona.groups import group_states
from esper_async.oona.streams import normal_lane
from esper_async.study.bench import bus_chaos_child as child
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

STREAM = normal_lane(child.TOPIC)
CONSUMERS = ("one", "two", "three")
BATCH, UNSEEN, REPEATED = 50, 40, 100
FROZEN_S, PATIENCE_S, POLL_S = 2.0, 600.0, 0.02


class DrillError(RuntimeError):
    """The drill itself went wrong; nothing can be said of the bus."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many messages and how many faults of each kind."""

    messages: int
    faults: dict[str, int]


_PLANS = {
    Effort.SHORT: Plan(
        2_000, {"redis killed": 2, "emptied": 1, "frozen": 1, "consumer killed": 3, "cut": 4}
    ),
    Effort.FULL: Plan(
        100_000, {"redis killed": 5, "emptied": 1, "frozen": 1, "consumer killed": 10, "cut": 20}
    ),
}


def measure(effort: Effort) -> list[Row]:
    """Run the drill and read the ledger."""
    return asyncio.run(_measure(_PLANS[effort]))


async def _measure(plan: Plan) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="esper-chaos-") as scratch:
        folder = Path(scratch)
        child.open_ledger(folder).close()
        server = EmbeddedServer(folder / "redis")
        await server.start()
        try:
            spool = Spool(folder / "spool")
            try:
                async with _bus(server, spool) as bus, _consumers(folder, server.url) as consumers:
                    drill = _Drill(folder, server, bus, spool, consumers)
                    await drill.run(plan)
                    republished = bus.metrics.value("esper_oona_spool_republished_total")
                    left = len(spool)
            finally:
                spool.close()
        finally:
            await server.stop()
        return _rows(folder, plan, left, republished)


def _rows(folder: Path, plan: Plan, left: int, republished: float) -> list[Row]:
    with closing(child.open_ledger(folder)) as ledger:
        effects = Counter(row[0] for row in ledger.execute("SELECT report_id FROM effects"))
        (duplicates,) = ledger.execute("SELECT COUNT(*) FROM duplicates").fetchone()
    told = {f"r{number}" for number in range(plan.messages)}
    told_of = ", ".join(f"{kind} {count}" for kind, count in plan.faults.items())
    zero = Bar("at most", 0)
    return [
        judged("lost", float(len(told - effects.keys())), f"of {len(told)}", zero, note=told_of),
        judged("effects that happened again", float(effects.total() - len(effects)), "", zero),
        judged("left in the spool", float(left), "", zero),
        shown("duplicates absorbed", float(duplicates), ""),
        shown("published again", republished, ""),
    ]


def _bus(server: EmbeddedServer, spool: Spool) -> Bus:
    return Bus(
        server.url, signer=Signer(child.KEY), source="chaos", spool=spool, settings=child.SETTINGS
    )


class _Drill:
    """Publishes, and meanwhile lets one fault after the other happen."""

    def __init__(
        self,
        folder: Path,
        server: EmbeddedServer,
        bus: Bus,
        spool: Spool,
        consumers: "list[_Consumer]",
    ) -> None:
        self._folder = folder
        self._server = server
        self._bus = bus
        self._spool = spool
        self._consumers = consumers
        self._random = random.Random(4)  # noqa: S311 - which consumer, in which order
        self._published = 0
        self._faults: dict[str, Callable[[], Awaitable[None]]] = {
            "redis killed": self._kill_redis,
            "emptied": self._empty_redis,
            "frozen": self._freeze_redis,
            "consumer killed": self._kill_consumer,
            "cut": self._cut_connections,
        }

    async def run(self, plan: Plan) -> None:
        """Publish all messages in equal parts, a fault during each; then wait for the end."""
        order = [kind for kind, count in plan.faults.items() for _ in range(count)]
        self._random.shuffle(order)
        for place, kind in enumerate(order, start=1):
            async with asyncio.TaskGroup() as group:
                group.create_task(self._publish_up_to(plan.messages * place // (len(order) + 1)))
                group.create_task(self._during_traffic(self._faults[kind]))
        await self._publish_up_to(plan.messages)
        if not await self._settled():
            return  # the ledger and the spool say what is missing
        await asyncio.gather(*[consumer.restart() for consumer in self._consumers])
        await self._publish(self._taken_effect()[:REPEATED])  # only the ledger remembers them
        await self._settled()

    async def _publish_up_to(self, number: int) -> None:
        while self._published < number:
            upto = min(self._published + BATCH, number)
            await self._publish(range(self._published, upto))
            self._published = upto

    def _taken_effect(self) -> list[int]:
        with closing(child.open_ledger(self._folder)) as ledger:
            rows = ledger.execute("SELECT report_id FROM effects").fetchall()
        return [int(row[0].removeprefix("r")) for row in rows]

    async def _publish(self, numbers: Sequence[int]) -> None:
        outcome = FieldReportOutcome.Value("FIELD_REPORT_OUTCOME_NEUTRAL")
        await self._bus.publish_many(
            [
                FieldReport(version=1, report_id=f"r{number}", run_id="chaos", outcome=outcome)
                for number in numbers
            ]
        )

    async def _during_traffic(self, fault: Callable[[], Awaitable[None]]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await fault()

    async def _kill_redis(self) -> None:
        self._server.signal(signal.SIGKILL)
        await self._server.wait()
        await self._server.start()

    async def _freeze_redis(self) -> None:
        self._server.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(FROZEN_S)  # longer than any command may take
        finally:
            self._server.signal(signal.SIGCONT)

    async def _empty_redis(self) -> None:
        """Lose everything on the server while messages lie there that nobody has seen."""
        for consumer in self._consumers:
            consumer.signal(signal.SIGSTOP)
        try:
            async with _client(self._server) as client:
                await _until(lambda: self._unseen(client))
                await client.flushall()
        finally:
            for consumer in self._consumers:
                consumer.signal(signal.SIGCONT)

    async def _unseen(self, client: Client) -> bool:
        states = await group_states(client, STREAM, lag_limit=UNSEEN)
        enough = child.GROUP in states and states[child.GROUP].lag >= UNSEEN
        if not enough:  # more is needed than this part of the messages had left
            await self._publish_up_to(self._published + BATCH)
        return enough

    async def _kill_consumer(self) -> None:
        await self._random.choice(self._consumers).restart()

    async def _cut_connections(self) -> None:
        async with _client(self._server) as client:
            await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def _settled(self) -> bool:
        """Wait until the spool is empty and all on the stream acknowledged; tell if that came."""

        async def done() -> bool:
            for consumer in self._consumers:
                consumer.check()
            states = await group_states(client, STREAM, lag_limit=1)
            quiet = child.GROUP in states and not states[child.GROUP].depth
            return quiet and not len(self._spool)

        async with _client(self._server) as client:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await _until(done)
            except TimeoutError:
                return False
        return True


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    while True:
        try:
            if await condition():
                return
        except FAULTS:
            pass  # the next look comes over a new connection
        await asyncio.sleep(POLL_S)


@asynccontextmanager
async def _client(server: EmbeddedServer) -> AsyncIterator[Client]:
    client = connect(server.url, timeout_s=5.0)
    try:
        yield client
    finally:
        await client.aclose()


class _Consumer:
    """One consumer's process; killed and started again under its name."""

    def __init__(self, folder: Path, url: str, name: str) -> None:
        self._folder = folder
        self._url = url
        self._name = name
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process; it begins to read in its own time."""
        with (self._folder / f"{self._name}.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", child.__name__,
                str(self._folder), self._url, self._name, *_child_flags(),
                stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self.check()
        assert self._process is not None
        self._process.send_signal(number)

    async def restart(self) -> None:
        """Kill the process at whatever it does, and start another."""
        await self.kill()
        await self.start()

    async def kill(self) -> None:
        """Kill the process."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def check(self) -> None:
        """Raise DrillError when the process has ended by itself."""
        if self._process is None or self._process.returncode is not None:
            said = (self._folder / f"{self._name}.log").read_text()[-2_000:]
            raise DrillError(f"consumer {self._name} ended by itself:\n{said}")


@asynccontextmanager
async def _consumers(folder: Path, url: str) -> AsyncIterator[list[_Consumer]]:
    consumers = [_Consumer(folder, url, name) for name in CONSUMERS]
    try:
        for consumer in consumers:
            await consumer.start()
        yield consumers
    finally:
        for consumer in consumers:
            await consumer.kill()


def _child_flags() -> list[str]:
    return []


async def _forgets_at_once(courier: Courier, client: Any, batch: list[Any]) -> None:
    await _whole_publish(courier, client, batch)
    courier._spool.remove([entry.seq for entry in batch if entry.seq in courier._sent])


@contextmanager
def _keeps_everything() -> Iterator[None]:
    with (
        replaced("esper_async.oona.spool.Spool.remove", lambda *_: None),
        replaced(f"{__name__}.PATIENCE_S", 5.0),  # or the mutant takes ten minutes
    ):
        yield


_whole_publish = Courier._publish

BENCHMARK = Benchmark(
    name="bus-chaos",
    question="does the bus lose anything, or do anything twice, whatever happens to it?",
    measure=measure,
    mutants=(
        Mutant(
            "spool cleared at XADD's reply",
            "a message is forgotten once Redis has taken it, before its group has",
            lambda: replaced("esper_async.oona.courier.Courier._publish", _forgets_at_once),
            fails=("lost",),
        ),
        Mutant(
            "an effect for every delivery",
            "the consumers do not record which events they have seen",
            lambda: replaced(f"{__name__}._child_flags", lambda: ["--mutant", "forgetful"]),
            fails=("effects that happened again",),
        ),
        Mutant(
            "spool never cleared",
            "a message stays on disk although its group has acknowledged it",
            _keeps_everything,
            fails=("left in the spool",),
        ),
    ),
)
