"""How late is the event loop while the page is open and telemetry comes in at 1 000 a second?

Nissa runs in a process of its own, with its stores on disk and a run that goes on; it times its own
loop. The page is open in a headless Chromium where there is one, and in either case ten further
readers hold the stream open and ask the API again and again, as a page does.
"""

import asyncio
import tempfile
import time
from pathlib import Path

import aiohttp

from esper_async.study.bench.benchmark import Bar, Benchmark, Effort, Mutant, Row, judged, shown
from esper_async.study.bench.chromium import chromium_at
from esper_async.study.bench.nissa_process import nissa_process
from esper_async.study.bench.up_process import run_in_every_python

MOST_LAG_MS = 15.0
BUSY_SHARE = 0.2
EXPLAINED_MS = 28.0
PACKETS_PER_S = 1_000.0
_READERS = 10
_SECONDS = {Effort.SHORT: 8.0, Effort.FULL: 120.0}
_LAG = "lag of the event loop, 99th percentile"
_ASKED = (
    "/api/status", "/api/runs", "/api/runs/lag/picture", "/api/events?q=event", "/api/slos",
    "/metrics", "/api/alerts",
)  # fmt: skip


def measure(effort: Effort) -> list[Row]:
    """Serve, read and time."""
    with (
        tempfile.TemporaryDirectory(prefix="esper-lag-") as folder,
        nissa_process(Path(folder) / "state", packets_per_s=PACKETS_PER_S) as served,
        chromium_at(served.url, Path(folder) / "profile") as with_page,
    ):
        asked = asyncio.run(_read(served.url, _SECONDS[effort]))
    p50, p99, most = served.told["lag_ms"]
    own_p99 = served.told["own_lag_ms"][1]
    share = served.told["queued_share"]
    # what the process itself does shows in its own lag, however busy the machine is
    hindered = p99 > MOST_LAG_MS and share > BUSY_SHARE and own_p99 < EXPLAINED_MS
    doubt = f"it waited for a core for {share:.0%} of the time: others are at work here"
    guilty = served.told["guilty"].strip().splitlines()
    where = " ".join(guilty[-2].split()) if len(guilty) > 1 else "nobody for over 30 ms"
    page = "the page in Chromium" if with_page else "no Chromium here: readers alone"
    return [
        judged(_LAG, p99, "ms", Bar("at most", MOST_LAG_MS), interval=(own_p99, p99),
               note=f"{page}, {_READERS} readers, {asked} requests; median "
               f"{p50:.2f} ms; the low end is without waiting for a core",
               doubt=f"{doubt}; p99 without that {own_p99:.1f} ms" if hindered else ""),
        shown("lag of the event loop, maximum", most, "ms", note=f"guilty: {where}"),
    ]  # fmt: skip


async def _read(url: str, seconds: float) -> int:
    until = time.monotonic() + seconds
    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        readers = [group.create_task(_reader(http, url, until)) for _ in range(_READERS)]
    return sum(reader.result() for reader in readers)


async def _reader(http: aiohttp.ClientSession, url: str, until: float) -> int:
    asked = 0
    async with http.ws_connect(f"{url}/ws/stream") as socket, asyncio.TaskGroup() as group:
        draining = group.create_task(_drain(socket))
        while time.monotonic() < until:
            async with http.get(url + _ASKED[asked % len(_ASKED)]) as answer:
                await answer.read()
            asked += 1
            await asyncio.sleep(0.5)
        draining.cancel()
    return asked


async def _drain(socket: aiohttp.ClientWebSocketResponse) -> None:
    async for _ in socket:
        pass


_BLOCKING = """
import time
from esper_async.nissa import ingest
whole = ingest.Ingest.take
taken = [0]
def take(self, packet):
    taken[0] += 1
    if taken[0] % 50 == 0:
        time.sleep(0.03)
    whole(self, packet)
ingest.Ingest.take = take
"""

BENCHMARK = Benchmark(
    name="page-lag",
    question="how late is the event loop while the page is open and telemetry comes in?",
    measure=measure,
    mutants=(
        Mutant(
            "one packet in fifty waits on the loop",
            "as it would if it were written to the disk at once",
            lambda: run_in_every_python(_BLOCKING),
            fails=(_LAG,),
        ),
    ),
)
