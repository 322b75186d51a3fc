"""How much telemetry can Nissa take in, and what does a scrape cost? On one core, by its own time.

Packets are the reference packet of ten points of a run. A scrape answers with at least two thousand
series, in the classic text and in OpenMetrics.
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from esper_async.leyline import EventEnvelope, TelemetryPacket
from esper_async.nissa.event_store import EventStore
from esper_async.nissa.ingest import Ingest
from esper_async.nissa.metrics import NissaMetrics
from esper_async.runtime.metrics import Registry
from esper_async.study.bench.benchmark import Bar, Benchmark, Effort, Mutant, Row, judged, wants
from esper_async.study.bench.slowing import burning_cpu

LEAST_PACKETS_PER_S = 5_000.0
MOST_SCRAPE_MS = 50.0
SERIES = 2_000
_PACKETS = {Effort.SHORT: 3_000, Effort.FULL: 50_000}
_SCRAPES = {Effort.SHORT: 20, Effort.FULL: 60}
_TAKEN = "packets of ten points taken in a second"
_SCRAPED = "a scrape of 2 000 series, 95th percentile"
_FORMS = {"text": "text/plain", "OpenMetrics": "application/openmetrics-text; version=1.0.0"}


def measure(effort: Effort) -> list[Row]:
    """Take packets in, then scrape."""
    rows = []
    if wants(_TAKEN):
        rows.append(_ingest_row(_PACKETS[effort]))
    for form, accept in _FORMS.items():
        figure = f"{_SCRAPED} ({form})"
        if wants(figure):
            rows.append(_scrape_row(figure, accept, _SCRAPES[effort]))
    return rows


def _ingest_row(count: int) -> Row:
    with tempfile.TemporaryDirectory(prefix="esper-ingest-") as folder:
        registry = Registry()
        ingest = Ingest(
            registry=registry,
            metrics=NissaMetrics(registry),
            events=EventStore(Path(folder) / "events.sqlite"),
        )
        packets = [_packet(number) for number in range(count)]
        spent_s = asyncio.run(_taken(ingest, packets))
    return judged(
        _TAKEN, count / spent_s, "1/s", Bar("at least", LEAST_PACKETS_PER_S),
        note=f"{count} packets, processor time of one thread",
    )  # fmt: skip


async def _taken(ingest: Ingest, packets: list[TelemetryPacket]) -> float:
    envelope = EventEnvelope()
    started = time.thread_time()
    for packet in packets:
        await ingest.handle(packet, envelope)
    return time.thread_time() - started


def _packet(number: int) -> TelemetryPacket:
    made = TelemetryPacket(version=1, packet_id=f"p{number}", source="tolaria", run_id="r1")
    for name, value in (
        ("tolaria.training.loss", 0.5), ("tolaria.validation.loss", 0.6),
        ("tolaria.validation.accuracy", 0.9), ("tolaria.throughput.samples_per_s", 5e3),
        ("tolaria.epoch.duration_ms", 900.0), ("tolaria.shadow.cost_ratio", 0.1),
        ("tolaria.seeds.active", 4.0), ("tamiyo.inference.latency_ms", 2.0),
    ):  # fmt: skip
        made.points.add(name=name, value=value)
    made.points.add(name="kasmina.alpha", value=0.5, labels={"seed": f"s{number % 8}"})
    made.points.add(
        name="tolaria.boundary.duration_ms", value=5.0 + number % 7, labels={"part": "total"}
    )
    return made


def _scrape_row(figure: str, accept: str, count: int) -> Row:
    registry = full_registry(SERIES)
    body, _ = registry.exposition(accept)
    series = sum(1 for line in body.decode().splitlines() if line and not line.startswith("#"))
    times_ms = []
    for _ in range(count):
        started = time.thread_time()
        registry.exposition(accept)
        times_ms.append((time.thread_time() - started) * 1e3)
    worst = statistics.quantiles(times_ms, n=20, method="inclusive")[-1]  # of all that were made
    return judged(
        figure, worst, "ms", Bar("at most", MOST_SCRAPE_MS),
        note=f"{series} series, {len(body) // 1024} KiB, {count} scrapes, processor time",
    )  # fmt: skip


def full_registry(series: int) -> Registry:
    """A registry with at least so many series: gauges, counters and histograms."""
    registry = Registry()
    made = 0
    for number in range(1_000):
        if made >= series:
            break
        gauge = registry.gauge(f"tolaria.figure{number}", "A level", ["run", "seed"])
        counter = registry.counter(f"tolaria.count{number}", "A count", ["run", "part"])
        times = registry.histogram(f"tolaria.time{number}_ms", "A time", ["run"])
        for run in range(3):
            for part in range(5):
                gauge.set(number * 0.1, run=f"r{run}", seed=f"s{part}")
                counter.add(part, run=f"r{run}", part=f"p{part}")
            times.observe(5.0, run=f"r{run}")
        made += 15 + 15 + 3 * 20
    return registry


BENCHMARK = Benchmark(
    name="nissa-ingest",
    question="how much telemetry can Nissa take in, and what does a scrape cost?",
    measure=measure,
    mutants=(
        Mutant(
            "each point costs 30 µs more",
            "as it would if its metric and labels were looked for anew",
            lambda: burning_cpu("esper_async.nissa.ingest.Ingest._measure", 30e-6),
            fails=(_TAKEN,),
        ),
        Mutant(
            "a scrape costs 60 ms more",
            "as it would if every metric were read several times",
            lambda: burning_cpu("esper_async.runtime.metrics.Registry.exposition", 0.06),
            fails=(f"{_SCRAPED} *",),
        ),
    ),
)
