"""How late is the supervisor's event loop while the page is open and telemetry comes in?

A whole `up`: Redis, all ten subsystems, a training child whose run goes on, and a child of the
bench's that publishes 1 000 packets a second on its bus. The page of the run is open in a headless
Chromium where there is one, and further readers hold the stream open and ask the API again and
again, as a page does. The supervisor notes its own loop from within (`loop_probe`).
"""

import asyncio
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from esper_async.study.bench.benchmark import Bar, Benchmark, Effort, Mutant, Row, judged, shown
from esper_async.study.bench.chromium import chromium_at
from esper_async.study.bench.loop_probe import Tick, probe_of_up, ticks_in
from esper_async.study.bench.up_process import UpProcess, breaking_up, started_with

MOST_LAG_MS = 15.0
BUSY_SHARE = 0.2
EXPLAINED_MS = 28.0
PACKETS_PER_S = 1_000.0
LEAST_SHARE = 0.95
_READERS = 10
_SECONDS = {Effort.SHORT: 6.0, Effort.FULL: 120.0}
_POLICY = {Effort.SHORT: "static", Effort.FULL: "heuristic"}
"""One that grows is asked for after its certificates were proved, which takes a minute."""
_PATIENCE_S = {Effort.SHORT: 120.0, Effort.FULL: 600.0}
_LAG = "lag of the supervisor's event loop, 99th percentile"
_RUN = """
[run]
name = "lag"
task = "esper_async.tasks.digits:make_task"
epochs = 100_000
seed = 41
threads = 1
[growth]
policy = "{policy}"
"""
_TAKEN_IN = re.compile(r"^esper_nissa_telemetry_packets_total (\S+)", re.MULTILINE)
_ASKED = (
    "/api/status", "/api/runs", "/api/runs/{run}/picture", "/api/events?q=event", "/api/slos",
    "/metrics", "/api/alerts",
)  # fmt: skip


def measure(effort: Effort) -> list[Row]:
    """Start everything, read for a while, and look at what the loop has noted."""
    with tempfile.TemporaryDirectory(prefix="esper-lag-") as place:
        folder = Path(place)
        noted = folder / "ticks.json"
        with started_with(folder, probe_of_up(noted), run=_run_file(folder, effort)) as up:
            run = _trained(up, _PATIENCE_S[effort])
            with (
                chromium_at(up.url, folder / "profile") as with_page,
                _telemetry(up.state),
            ):
                began, before = time.monotonic(), _packets(up.url)
                asked = asyncio.run(_read(up.url, run, _SECONDS[effort]))
                ended, after = time.monotonic(), _packets(up.url)
            up.end(number=signal.SIGTERM, patience_s=60.0)
        ticks = ticks_in(noted, began, ended)
    page = "the page in Chromium" if with_page else "no Chromium here: readers alone"
    rate = (after - before) / (ended - began)
    note = f"{page}, {_READERS} readers, {asked} requests, {rate:.0f} packets a second"
    return [_lag_row(ticks, rate, note), _most_row(ticks)]


def _lag_row(ticks: list[Tick], rate: float, note: str) -> Row:
    p50, p99 = np.percentile([tick.late_ms for tick in ticks], (50, 99)).tolist()
    own_p99 = float(np.percentile([tick.own_ms for tick in ticks], 99))
    lost_s = sum(tick.late_ms - tick.own_ms for tick in ticks) * 1e-3
    share = lost_s / (ticks[-1].due_s - ticks[0].due_s)
    doubt = ""
    # what the process itself does shows in its own lag, however busy the machine is
    if p99 > MOST_LAG_MS and share > BUSY_SHARE and own_p99 < EXPLAINED_MS:
        doubt = (
            f"it waited for a core for {share:.0%} of the time: others are at work here; "
            f"p99 {p99:.1f} ms, without that {own_p99:.1f} ms"
        )
    elif p99 <= MOST_LAG_MS and rate < LEAST_SHARE * PACKETS_PER_S:
        doubt = f"only {rate:.0f} packets a second came in; p99 {p99:.1f} ms"
    return judged(
        _LAG, p99, "ms", Bar("at most", MOST_LAG_MS), interval=(min(own_p99, p99), p99),
        note=f"{note}; median {p50:.2f} ms; the low end is without waiting for a core", doubt=doubt,
    )  # fmt: skip


def _most_row(ticks: list[Tick]) -> Row:
    worst = max(ticks, key=lambda tick: tick.late_ms)
    return shown(
        "lag of the supervisor's event loop, maximum", worst.late_ms, "ms",
        note=f"{worst.own_ms:.1f} ms without waiting for a core; at work: "
        f"{worst.guilty or 'nobody for long enough'}",
    )  # fmt: skip


def _run_file(folder: Path, effort: Effort) -> Path:
    """Write the file of a run that does not end; return its path."""
    path = folder / "lag.toml"
    path.write_text(_RUN.format(policy=_POLICY[effort]))
    return path


def _trained(up: UpProcess, patience_s: float) -> str:
    """Wait until the run has trained for an epoch; return its id."""
    up.until(up.ready, "its readiness", patience_s=patience_s)

    def runs() -> list[dict[str, Any]]:
        return list(json.loads(_answer(f"{up.url}/api/runs")))

    up.until(lambda: any(run["epoch"] for run in runs()), "an epoch", patience_s=patience_s)
    return str(runs()[0]["id"])


def _packets(url: str) -> float:
    """How many packets of telemetry the supervisor at `url` has taken in."""
    found = _TAKEN_IN.search(_answer(f"{url}/metrics"))
    return float(found[1]) if found else 0.0


def _answer(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - a supervisor of ours
        return str(answer.read(), "utf-8")


@contextmanager
def _telemetry(state: Path) -> Iterator[None]:
    """Have packets published, from the beginning of the block to its end."""
    command = [sys.executable, "-m", "esper_async.study.bench.telemetry_load", str(state)]
    with subprocess.Popen(
        [*command, str(PACKETS_PER_S)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as load:
        try:
            assert load.stdout is not None
            load.stdout.readline()
            yield
        finally:
            load.kill()


async def _read(url: str, run: str, seconds: float) -> int:
    until = time.monotonic() + seconds
    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        readers = [group.create_task(_reader(http, url, run, until)) for _ in range(_READERS)]
    return sum(reader.result() for reader in readers)


async def _reader(http: aiohttp.ClientSession, url: str, run: str, until: float) -> int:
    asked = 0
    async with http.ws_connect(f"{url}/ws/stream") as socket, asyncio.TaskGroup() as group:
        draining = group.create_task(_drain(socket))
        while time.monotonic() < until:
            path = _ASKED[asked % len(_ASKED)].format(run=run)
            async with http.get(url + path) as answer:
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
    question="how late is the supervisor's event loop while the page is open and telemetry comes?",
    measure=measure,
    mutants=(
        Mutant(
            "one packet in fifty waits on the loop",
            "as it would if it were written to the disk at once",
            breaking_up(_BLOCKING),
            fails=(_LAG,),
        ),
    ),
)
