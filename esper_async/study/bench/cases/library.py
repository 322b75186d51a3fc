"""How fast does the library answer: a certificate from memory and from disk, and a query?

The catalogue has one hundred thousand certificates (the short form: twenty thousand) of fifty
blueprints. Queries draw their conditions at random: each of tier, stage, interface, risk,
parameters, FLOPs and latency is asked for in every second one. What they find is held against a
plain look through everything that was put in.

Rows are put into the catalogue in one transaction, without blobs and sidecars, which no query
reads. A certificate "from disk" is read after the library was closed, its catalogue opened anew.
"""

import functools
import hashlib
import random
import shutil
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from sqlite3 import Connection

import numpy as np

from esper_async.kasmina.certificate import Certificate
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
from esper_async.study.bench.cases.contracts import Machine
from esper_async.study.bench.slowing import burning_cpu
from esper_async.urza import CERTIFICATE, Asset, Library, Query, rows

_ASSETS = {Effort.SHORT: 20_000, Effort.FULL: 100_000}
_QUERIES = {Effort.SHORT: 200, Effort.FULL: 5_000}
_READS = {Effort.SHORT: 100, Effort.FULL: 1_000}
_ROUND = 100
_BLUEPRINTS, _TIERS = 50, ("production",) * 35 + ("experimental",) * 7 + ("adversarial",) * 8
_PAGE = 10
_P50, _P99, _RATE = "query: p50", "query: p99", "queries"
_RIGHT = "queries answered as a look through everything does"
_MEMORY, _DISK = "certificate from memory", "certificate from disk"


def measure(effort: Effort) -> list[Row]:
    """Time queries and reads."""
    found: list[Row] = []
    if wants(_P50, _P99, _RATE, _RIGHT):
        found += _query_rows(effort)
    if wants(_MEMORY, _DISK):
        found += _read_rows(effort)
    return found


def _query_rows(effort: Effort) -> list[Row]:
    catalogue = _catalogue(_ASSETS[effort])
    chance = random.Random(3)  # noqa: S311 - it draws what is measured
    queries = [_draw(chance, _ASSETS[effort]) for _ in range(_QUERIES[effort])]
    library = Library(catalogue.directory)
    machine = Machine()
    try:
        started = time.perf_counter()
        library.find(limit=1)
        first_s = time.perf_counter() - started
        taken_s, answers = [], []
        cpu_s = 0.0
        for start in range(0, len(queries), _ROUND):
            machine.listen()
            cpu_started = time.thread_time()
            for query in queries[start : start + _ROUND]:
                started = time.perf_counter()
                answers.append(library.find(query, limit=_PAGE))
                taken_s.append(time.perf_counter() - started)
            cpu_s += time.thread_time() - cpu_started
    finally:
        library.close()
    p50, p99 = (float(each) for each in np.percentile(np.array(taken_s) * 1e3, (50, 99)))
    checked = range(0, len(queries), max(1, len(queries) // 200))
    right = sum(catalogue.newest(queries[each], _PAGE) == answers[each] for each in checked)
    rate = len(queries) / cpu_s
    note = f"{_ASSETS[effort]:,} assets, at most {_PAGE} an answer, all verified"
    return [
        judged(_P50, p50, "ms", Bar("at most", 1.0), note=note, doubt=_doubt(machine, p50, 1.0)),
        judged(_P99, p99, "ms", Bar("at most", 10.0), doubt=_doubt(machine, p99, 10.0, tail=True)),
        judged(
            _RATE,
            rate,
            "a second",
            Bar("at least", 2_000),
            note=f"one thread, by its CPU time; {len(queries) / sum(taken_s):,.0f} by the clock",
            doubt=_doubt(machine, 1e3 / rate, 0.5),
        ),
        judged(_RIGHT, right / len(checked), "of queries", Bar("at least", 1.0)),
        shown("first query of a process", first_s, "s", note="takes the whole catalogue in"),
    ]


def _read_rows(effort: Effort) -> list[Row]:
    machine = Machine()
    with tempfile.TemporaryDirectory() as folder:
        library = Library(Path(folder))
        try:
            library.put_certificate("k", _record(), blueprint="BP009", interface="spatial")
            disk_ms = 1e3 * _median_s(_READS[effort], library, machine, forget=True)
            memory_us = 1e6 * _median_s(10 * _READS[effort], library, machine, forget=False)
        finally:
            library.close()
    return [
        judged(
            _MEMORY,
            memory_us,
            "µs",
            Bar("at most", 50.0),
            note="with a look whether another process has changed the catalogue",
            doubt=machine.doubt(memory_us, 50.0),
        ),
        judged(
            _DISK, disk_ms, "ms", Bar("at most", 5.0), doubt=_doubt(machine, disk_ms, 5.0)
        ),
    ]  # fmt: skip


def _median_s(count: int, library: Library, machine: Machine, *, forget: bool) -> float:
    taken_s = []
    for number in range(count):
        if number % 50 == 0:
            machine.listen()
        if forget:
            library.close()
        started = time.perf_counter()
        found = library.certificate("k")
        taken_s.append(time.perf_counter() - started)
        if found is None:
            return float("nan")
    return float(np.median(taken_s))


def _doubt(machine: Machine, value_ms: float, most_ms: float, *, tail: bool = False) -> str:
    return machine.doubt(1e3 * value_ms, 1e3 * most_ms, of_the_tail=tail)


class Catalogue:
    """A library's directory with rows alone, and the same as a plain list."""

    def __init__(self, directory: Path, count: int) -> None:
        self.directory = directory
        chance = random.Random(7)  # noqa: S311 - it draws what is measured
        self._assets = [_made_up(chance, number) for number in range(count)]
        library = Library(directory)

        def fill(connection: Connection) -> None:
            for asset in self._assets:
                rows.store(connection, asset)

        library._shelves.database.write(fill)
        library.close()
        weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)

    def newest(self, query: Query, limit: int) -> list[Asset]:
        """What a look through everything finds."""
        found: list[Asset] = []
        for asset in reversed(self._assets):
            if len(found) < limit and _fits(query, asset):
                found.append(asset)
        return found


@functools.cache
def _catalogue(count: int) -> Catalogue:
    return Catalogue(Path(tempfile.mkdtemp(prefix="esper-library-")), count)


def _made_up(chance: random.Random, number: int) -> Asset:
    which = number % _BLUEPRINTS
    blueprint, interface = f"BP{which + 1:03d}", f"spatial-{number // _BLUEPRINTS}x8x8-float32"
    key = f"{blueprint}-{interface}-{number:024d}"
    return Asset(
        key=key,
        version=1,
        kind=CERTIFICATE,
        blob=hashlib.sha256(key.encode()).hexdigest(),
        size_bytes=900,
        created_at=1_790_000_000.0 + number,
        blueprint=blueprint,
        interface=interface,
        tags=("passed",),
        tier=_TIERS[which],
        stage=which // 7,
        risk=round(which / _BLUEPRINTS, 2),
        performance={
            "parameter_count": chance.randrange(100_000),
            "forward_flops": chance.randrange(10_000_000),
            "forward_ms": round(chance.expovariate(2.0), 4),
        },
    )


def _draw(chance: random.Random, count: int) -> Query:
    def maybe(value: object) -> object:
        return value if chance.random() < 0.5 else None

    conditions: dict[str, object] = {
        "tier": maybe(chance.choice(("production", "experimental"))),
        "most_stage": maybe(chance.randrange(1, 7)),
        "interface": maybe(f"spatial-{chance.randrange(count // _BLUEPRINTS)}x8x8-float32"),
        "most_risk": maybe(chance.random()),
        "most_parameters": maybe(chance.randrange(100_000)),
        "most_flops": maybe(chance.randrange(10_000_000)),
        "most_latency_ms": maybe(chance.expovariate(2.0)),
    }
    return Query(kind=CERTIFICATE, tag="passed", in_force=True, **conditions)  # type: ignore[arg-type]


def _fits(query: Query, asset: Asset) -> bool:
    """Say it once more, in other words than the library's."""
    figures: Sequence[tuple[float | None, float]] = (
        (query.most_stage, asset.stage or 0),
        (query.most_risk, asset.risk or 0.0),
        (query.most_parameters, asset.performance["parameter_count"]),
        (query.most_flops, asset.performance["forward_flops"]),
        (query.most_latency_ms, asset.performance["forward_ms"]),
    )
    return (
        query.tier in (None, asset.tier)
        and query.interface in (None, asset.interface)
        and all(most is None or value <= most for most, value in figures)
    )


def _record() -> dict[str, object]:
    """A certificate as the forge writes them."""
    certificate = Certificate(
        key="k", blueprint_id="BP009", blueprint_name="residual_block", output="change",
        kind="spatial", shape=(16, 8, 8), dtype="float32", layout="contiguous",
        settings={"hidden": 16}, device="cpu", torch_version="2.8.0+cpu", code_hash="0" * 64,
        passed=True, failures=(), gradient_exemption=None, start_exemption=None,
        gradient_steps=2, start_distance=0.0, parameter_count=4_656, parameter_bytes=18_624,
        forward_flops=589_824, training_flops=1_769_472, saved_bytes=12_288, batch=16, threads=1,
        forward_ms=0.41, training_ms=1.3, proof_ms=80.0,
    )  # fmt: skip
    return {name: getattr(certificate, name) for name in Certificate.__slots__} | {
        "shape": [16, 8, 8],
        "failures": [],
    }


BENCHMARK = Benchmark(
    name="library",
    question="how fast does the library answer: from memory, from disk, and a query?",
    measure=measure,
    mutants=(
        Mutant(
            "queries take their time",
            "each query computes for sixty milliseconds before it looks",
            lambda: burning_cpu("esper_async.urza.columns.Columns.newest", 0.06),
            fails=(_P50, _P99, _RATE),
        ),
        Mutant(
            "budgets are not looked at",
            "a query keeps to its texts and forgets its numbers",
            lambda: replaced("esper_async.urza.query.Query.budgets", lambda _: iter(())),
            fails=(_RIGHT,),
        ),
        Mutant(
            "memory takes its time",
            "a look into memory computes for a millisecond first",
            lambda: burning_cpu("esper_async.urza.cache.ByteCache.get", 0.001),
            fails=(_MEMORY,),
        ),
        Mutant(
            "a blob takes its time",
            "a blob's digest is made again and again, for thirty milliseconds",
            lambda: burning_cpu("esper_async.urza.blobs.BlobStore.read", 0.030),
            fails=(_DISK,),
        ),
    ),
)
