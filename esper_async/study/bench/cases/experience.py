"""What does the store of experience cost: taking in, drawing, memory, start-up?

Decisions with a small graph, and a report on every other; 100 000 messages in the full form, a
tenth of them in the short one, whose bars on memory and start-up are lower to fit. Each message
that arrives alone waits for the disk by itself: that figure is the disk's, and has no bar. What
waits on the bus is taken in batches, by the coach as it runs and from a Redis of its own.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from esper_async.leyline import TOPICS, DecisionRecord, FieldReport, Signer, spec_of, value_of
from esper_async.leyline.envelope import wrap
from esper_async.leyline.v1 import enums_pb2 as enums
from esper_async.oona import Bus, EmbeddedServer
from esper_async.oona.connection import connect
from esper_async.oona.delivery import BatchHandler, one_at_a_time
from esper_async.oona.groups import ensure_groups
from esper_async.oona.streams import WIRE_FIELD, normal_lane
from esper_async.simic.service import SimicService
from esper_async.simic.store import ExperienceStore
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
from esper_async.study.bench.bus_load import KEY, open_bus, running_server
from esper_async.study.bench.experience_faults import Reopening

_MESSAGES = {Effort.SHORT: 10_000, Effort.FULL: 100_000}
_SAMPLES = {Effort.SHORT: 60, Effort.FULL: 400}
_MOST_MB = {Effort.SHORT: 15.0, Effort.FULL: 1_000.0}
_MOST_START_S = {Effort.SHORT: 0.2, Effort.FULL: 3.0}
_LEAST_A_SECOND = 2_000.0
_MOST_SAMPLE_MS = 5.0
_TAKEN, _BATCH, _ALONE = 3_200, 128, 100
_LOOK_EVERY_S = 0.005
_A_RUN = 100
_INGEST = "messages taken a second, 128 at a time"
_FROM_BUS = "messages taken from the bus a second"
_DRAWN = "a sample of 32, median"
_HELD = "memory that an open store takes"
_STARTED = "from opening to the first sample"
_store_type: type[ExperienceStore] = ExperienceStore
_child_fault: str | None = None


def measure(effort: Effort) -> list[Row]:
    """Take in, then open in a process of its own and draw."""
    with tempfile.TemporaryDirectory(prefix="esper-experience-") as folder:
        rows = _ingest(Path(folder) / "taken.sqlite") if wants(_INGEST) else []
        if wants(_FROM_BUS):
            rows.append(asyncio.run(_from_bus(Path(folder))))
        if wants(_DRAWN, _HELD, _STARTED):
            rows += _opened(Path(folder) / "full.sqlite", effort)
    return rows


def _ingest(path: Path) -> list[Row]:
    store = _store_type(path, now=time.time)
    arriving = _messages()
    count, taken_s = 0, 0.0
    while count < _TAKEN and taken_s < _TAKEN / _LEAST_A_SECOND * 2:
        some = list(islice(arriving, _BATCH))
        started = time.perf_counter()
        store.take_many(some)
        taken_s += time.perf_counter() - started
        count += len(some)
    started = time.perf_counter()
    for message, event in islice(arriving, _ALONE):
        store.take(message, event)
    alone_s = time.perf_counter() - started
    store.close()
    return [
        judged(_INGEST, count / taken_s, "1/s", Bar("at least", _LEAST_A_SECOND)),
        shown("messages taken a second, one at a time", _ALONE / alone_s, "1/s",
              note="each waits for the disk"),
    ]  # fmt: skip


async def _from_bus(folder: Path) -> Row:
    """Have the coach take what waits on a bus; too slow a one is stopped at twice the time."""
    async with running_server() as server, open_bus(server) as bus:
        await _fill(server, _TAKEN)
        service, ready = SimicService(folder, bus), asyncio.Event()
        task = asyncio.create_task(service.run(ready.set))
        await ready.wait()
        started = time.perf_counter()
        taken, taken_s = 0, 0.0
        while taken < _TAKEN and taken_s < 2 * _TAKEN / _LEAST_A_SECOND:
            await asyncio.sleep(_LOOK_EVERY_S)
            assert service.store is not None
            kept = service.store.count()
            taken, taken_s = kept["decisions"] + kept["reports"], time.perf_counter() - started
        task.cancel()
        await asyncio.wait({task})
    return judged(_FROM_BUS, taken / taken_s, "1/s", Bar("at least", _LEAST_A_SECOND),
                  note=f"{taken} of {_TAKEN} that waited, decisions and reports")  # fmt: skip


async def _fill(server: EmbeddedServer, count: int) -> None:
    """Put messages on their topics, signed, as producers would have."""
    client = connect(server.url, timeout_s=10.0)
    for topic in ("decisions", "field_reports"):
        await ensure_groups(client, normal_lane(topic), TOPICS[topic].required_groups)
    signer, pipeline = Signer(KEY), client.pipeline(transaction=False)
    for message, _ in islice(_messages(), count):
        wire = wrap(message, source="bench", signer=signer)
        pipeline.xadd(normal_lane(spec_of(message).topic.name), {WIRE_FIELD: wire})
    await pipeline.execute()
    await client.aclose()


def _opened(path: Path, effort: Effort) -> list[Row]:
    store, arriving = ExperienceStore(path, now=time.time), _messages()
    for _ in range(0, _MESSAGES[effort], 1_000):
        store.take_many(list(islice(arriving, 1_000)))
    held = store.count()
    store.close()
    size_mb = path.stat().st_size / 2**20
    told = _child(path, _SAMPLES[effort])
    times_ms = sorted(told["sample_ms"])
    kept = f"{held['decisions']} decisions, {held['reports']} reports, {size_mb:.0f} MiB on disk"
    return [
        judged(_DRAWN, times_ms[len(times_ms) // 2], "ms",
               Bar("at most", _MOST_SAMPLE_MS),
               note=_spread(times_ms)),
        judged(_HELD, told["held_mb"], "MB", Bar("at most", _MOST_MB[effort]),
               note=f"{kept}; the whole process {told['resident_mb']:.0f} MB"),
        judged(_STARTED, told["opened_s"], "s", Bar("at most", _MOST_START_S[effort])),
    ]  # fmt: skip


def _spread(times_ms: list[float]) -> str:
    late = times_ms[int(0.95 * (len(times_ms) - 1))]
    return f"{len(times_ms)}; 95th percentile {late:.1f} ms, slowest {times_ms[-1]:.1f} ms"


def _child(path: Path, samples: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "esper_async.study.bench.experience_child", str(path)]
    command += ["--samples", str(samples)]
    if _child_fault is not None:
        command += ["--fault", _child_fault]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _messages() -> Iterator[tuple[Message, str]]:
    """Yield decisions and, for every other one, its report, with an event's id each."""
    number = 0
    while True:
        run, boundary = f"run-{number // _A_RUN}", number % _A_RUN
        yield _decision(run, boundary), f"d{number}"
        if number % 2 == 0:
            yield _report(run, boundary), f"r{number}"
        number += 1


def _decision(run: str, boundary: int) -> DecisionRecord:
    message = DecisionRecord(
        version=1, decision_id=f"{run}/d{boundary}", run_id=run, boundary=boundary,
        policy="random", policy_version="1", log_probability=-2.0, decided_at=1.7e9 + boundary,
    )  # fmt: skip
    message.command.version, message.command.run_id = 1, run
    message.command.command_id = f"{run}/c{boundary}"
    message.command.seed.operation = value_of(enums.SeedOperation, "GERMINATE")
    message.command.seed.candidates.add(site="block.1", blueprint_id="BP009")
    message.placements.add(version="placement-1", values=[0.5] * 8)
    for kind, nodes in (("run", 1), ("layer", 4), ("seed", 2), ("blueprint", 12)):
        names = [f"{kind}{place}" for place in range(nodes)]
        message.graph.nodes.add(type=kind, width=8, features=[0.25] * 8 * nodes, names=names)
    return message


def _report(run: str, boundary: int) -> FieldReport:
    message = FieldReport(
        version=1, report_id=f"{run}/r{boundary}", command_id=f"{run}/c{boundary}", run_id=run,
        seed_id=f"s{boundary}", site="block.1", blueprint_id="BP009", window_boundaries=9,
        outcome=value_of(enums.FieldReportOutcome, "SUCCESS"), boundary=boundary + 9,
        stage=value_of(enums.SeedLifecycleStage, "FOSSILIZED"),
        parameter_ratio=0.5, compute_ratio=0.25, issued_at=1.7e9,
    )  # fmt: skip
    effect = message.benefit_vs_twin
    effect.mean, effect.low, effect.high, effect.n = 0.05, 0.04, 0.06, 100
    return message


async def _one_at_a_time(
    bus: Bus, topic: str, group: str, handler: BatchHandler, *, consumer: str
) -> None:
    await bus.consume(topic, group, one_at_a_time(handler), consumer=consumer)


def _in_child(fault: str) -> AbstractContextManager[None]:
    return replaced(f"{__name__}._child_fault", fault)


BENCHMARK = Benchmark(
    name="experience",
    question="what does the store of experience cost: taking in, drawing, memory, start-up?",
    measure=measure,
    mutants=(
        Mutant(
            "a store that is opened anew for every message",
            "bounds are held and bytes counted again each time",
            lambda: replaced(f"{__name__}._store_type", Reopening),
            fails=(_INGEST,),
        ),
        Mutant(
            "a coach that takes from the bus one at a time",
            "each message waits for the disk by itself",
            lambda: replaced("esper_async.oona.bus.Bus.consume_batches", _one_at_a_time),
            fails=(_FROM_BUS,),
        ),
        Mutant(
            "a sample that reads everything",
            "every step is read and its reward computed, then 32 are drawn",
            lambda: _in_child("reading-all"),
            fails=(_DRAWN,),
        ),
        Mutant(
            "a store that keeps everything in memory",
            "all steps are read when it is opened, for each term of the reward anew",
            lambda: _in_child("hoarding"),
            fails=(_HELD, _STARTED),
        ),
    ),
)
