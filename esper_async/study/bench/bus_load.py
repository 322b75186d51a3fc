"""Load for the bus's benchmarks: what is published, a handler that counts, the machine's lag."""

import asyncio
import inspect
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from esper_async.leyline import Alert, EventEnvelope, Signer
from esper_async.oona import Bus, BusSettings, EmbeddedServer
from esper_async.study.bench.benchmark import Bar, Row, judged
from esper_async.study.bench.interleave import Comparison

KEY = bytes(range(32))
PAYLOAD_BYTES = 280
SETTINGS = BusSettings(queue_bound=10**9, high_water=10**9 - 1, low_water=1)
TOPIC, GROUP = "alerts", "nissa"
PROBE, TICK_S = "bench:probe", 0.005
PERCENTILES = (50, 99)


def alert(number: int) -> Alert:
    """Return a message of the reference size."""
    message = Alert(version=1, alert_id=f"{number:08}", name="bench")
    message.summary = "x" * (PAYLOAD_BYTES - message.ByteSize() - 3)
    return message


@asynccontextmanager
async def running_server() -> AsyncIterator[EmbeddedServer]:
    """Run a server in a directory that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
        server = EmbeddedServer(Path(folder))
        await server.start()
        try:
            yield server
        finally:
            await server.stop()


def open_bus(server: EmbeddedServer, **options: Any) -> Bus:
    """Return a bus without a bound on its queues, not yet entered."""
    return Bus(server.url, signer=Signer(KEY), source="bench", settings=SETTINGS, **options)


class Counter:
    """A handler that does nothing but count; `first` and `last` are when it did, in seconds."""

    def __init__(self, expected: int) -> None:
        self.seen = 0
        self.first = self.last = 0.0
        self._expected = expected
        self._all = asyncio.Event()

    async def __call__(self, _message: Alert, _envelope: EventEnvelope) -> None:
        """Count one message."""
        self.seen += 1
        if self.seen == 1:
            self.first = time.perf_counter()
        if self.seen == self._expected:
            self.last = time.perf_counter()
            self._all.set()

    async def all(self, timeout_s: float = 120.0) -> None:
        """Wait until all that are expected were seen."""
        async with asyncio.timeout(timeout_s):
            await self._all.wait()


@asynccontextmanager
async def consuming(bus: Bus, handler: Any, *, consumer: str = "bench") -> AsyncIterator[None]:
    """Consume with `handler` for a block; what the consumer failed with is raised at its end."""
    task = asyncio.create_task(bus.consume(TOPIC, GROUP, handler, consumer=consumer))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()


@asynccontextmanager
async def watching_lag(url: str, lags_ms: dict[int, float]) -> AsyncIterator[None]:
    """Have a process of its own note how late plain writes to the server are, meanwhile.

    `lags_ms` has the `PERCENTILES` of that afterwards.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "esper_async.study.bench.lag_child", url,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    try:
        await child.stdout.readline()  # it has begun
        yield
        told, _ = await child.communicate(b"")
        lags_ms.update(zip(PERCENTILES, json.loads(told), strict=True))
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def until(condition: Callable[[], Any], *, for_s: float = 10.0) -> None:
    """Wait until `condition()` is true, awaited if need be, for some seconds at most.

    What has not come to be by then, the rows of a benchmark tell.
    """
    give_up = time.monotonic() + for_s
    while time.monotonic() < give_up:
        answer = condition()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        await asyncio.sleep(0.002)


def rate_row(figure: str, compared: Comparison, count: int, least: float, *, note: str) -> Row:
    """Judge the rate of `count` messages a lap against that of the laps before and after.

    When the baseline's laps differ among each other by more than a third of what is allowed, only
    a rate that is farther off than twice that difference is believed.
    """
    off = abs(compared.control.value - 1.0)
    took, baseline = compared.ratio, count / compared.baseline_s
    noisy = off > (1.0 - least) / 3 and 1.0 / took.value > least * (1.0 - 2.0 * off)
    return judged(
        figure,
        baseline / took.value,
        "/s",
        Bar("at least", least),
        baseline=baseline,
        ratio=1.0 / took.value,
        interval=(1.0 / took.high, 1.0 / took.low),
        note=f"{note}; the baseline against itself {1.0 / compared.control.value:.3f}",
        doubt=f"A/A control off by {off:.1%}; the machine is too noisy" if noisy else "",
    )
