"""What does a kernel cost to have: constructed, its certificate looked up, or proved from scratch?

All blueprints of the production tier at the four interfaces of a small model, through the library
that runs use. Times are of single calls, on one thread; proofs and constructions in CPU time, which
other work on the machine does not change, look-ups as they are.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import blueprints_for, build_kernel
from esper_async.kasmina.proof import certificate_key, prove
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
from esper_async.study.bench.slowing import burning_cpu
from esper_async.urza import Library

INTERFACES = (
    SiteInterface("spatial", (8, 14, 14)),
    SiteInterface("spatial", (16, 7, 7)),
    SiteInterface("sequence", (16, 32)),
    SiteInterface("feature", (32,)),
)
"""Of a small convolutional net, a small transformer and a dense layer."""
CONSTRUCTED, IN_MEMORY, ON_DISK, PROVED = (
    "kernel constructed, p50",
    "certificate from memory, p50",
    "certificate from disk, p50",
    "certificate proved from scratch, p50",
)
ONCE, AGAIN = "production tier at four interfaces, once", "the same again: proofs"
MOST_ONCE_S = 25.0
_EVERY = {Effort.SHORT: 6, Effort.FULL: 1}
_REPEATS = {Effort.SHORT: 3, Effort.FULL: 20}
Pair = tuple[str, SiteInterface]


@dataclass(frozen=True, slots=True)
class Shelf:
    """A library in a folder, and the pairs whose certificates are to be on it."""

    folder: Path
    pairs: Sequence[Pair]

    @contextmanager
    def opened(self) -> Iterator[Library]:
        """Open the library as a process does that has just started: with nothing in memory."""
        library = Library(self.folder, actor="bench")
        try:
            yield library
        finally:
            library.close()

    def fill(self) -> list[float]:
        """Prove what is not there yet; return the CPU seconds of each proof."""
        proofs = []
        with self.opened() as library:
            for blueprint, site in self.pairs:
                key = certificate_key(blueprint, site)
                if library.certificate(key) is not None:
                    continue
                began = time.thread_time()
                certificate = prove(blueprint, site)
                proofs.append(time.thread_time() - began)
                record = json.loads(certificate.to_json())
                library.put_certificate(key, record, blueprint=blueprint, interface=site.key)
        return proofs


def measure(effort: Effort) -> list[Row]:
    """Construct, prove and look up every pair of a blueprint and an interface that fit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
            everything = _pairs()
            chosen = everything[:: _EVERY[effort]]
            shelf = Shelf(Path(folder), chosen)
            return _rows(shelf, _REPEATS[effort], len(chosen) / len(everything))
    finally:
        torch.set_num_threads(threads)


def _pairs() -> list[Pair]:
    return [
        (blueprint.id, site)
        for site in INTERFACES
        for blueprint in blueprints_for(site)
        if blueprint.tier == "production"
    ]


def _rows(shelf: Shelf, repeats: int, share: float) -> list[Row]:
    began = time.process_time()
    proofs = shelf.fill()
    once_s = time.process_time() - began
    again = shelf.fill() if wants(AGAIN) else []
    rows = [
        _p50(PROVED, proofs, "ms", 300.0, 1e3, f"{len(proofs)} proofs, CPU time"),
        judged(ONCE, once_s, "s of CPU", Bar("at most", MOST_ONCE_S * share),
               note=f"{len(shelf.pairs)} pairs of a blueprint and an interface"),
        judged(AGAIN, float(len(again)), "", Bar("at most", 0)),
    ]  # fmt: skip
    if wants(CONSTRUCTED):
        rows += _constructed(shelf, repeats)
    if wants(IN_MEMORY, ON_DISK):
        rows += _looked_up(shelf, repeats)
    return rows


def _constructed(shelf: Shelf, repeats: int) -> list[Row]:
    times = {}
    for pair in shelf.pairs:
        build = partial(build_kernel, *pair, seed=0)
        times[pair] = [_timed(build, time.thread_time) for _ in range(repeats)]
    slowest = max(times, key=lambda pair: np.median(times[pair]))
    every = [taken for each in times.values() for taken in each]
    return [
        _p50(CONSTRUCTED, every, "ms", 5.0, 1e3, "CPU time"),
        shown("the slowest kernel constructed", 1e3 * float(np.median(times[slowest])), "ms",
              note=f"{slowest[0]} at {slowest[1].key}"),
    ]  # fmt: skip


def _looked_up(shelf: Shelf, repeats: int) -> list[Row]:
    keys = [certificate_key(*pair) for pair in shelf.pairs]
    in_memory: list[float] = []
    on_disk: list[float] = []
    for _ in range(repeats):
        with shelf.opened() as library:
            library.certificate("none of that name")  # opens the catalogue
            for times in (on_disk, in_memory):
                times += [
                    _timed(partial(library.certificate, key), time.perf_counter) for key in keys
                ]
    return [
        _p50(IN_MEMORY, in_memory, "µs", 50.0, 1e6, ""),
        _p50(ON_DISK, on_disk, "ms", 5.0, 1e3, "a process's first look at each"),
    ]


def _timed(work: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    work()
    return clock() - began


def _p50(
    figure: str, times: Sequence[float], unit: str, most: float, scale: float, note: str
) -> Row:
    p50, p99 = np.percentile(times, (50, 99)) * scale
    said = f"p99 {p99:.3g} {unit}" + (f"; {note}" if note else "")
    return judged(figure, float(p50), unit, Bar("at most", most), note=said)


def _forgets(*_: Any, **__: Any) -> None:
    return None


BENCHMARK = Benchmark(
    name="certificates",
    question="what does a kernel cost to have: constructed, looked up, proved?",
    measure=measure,
    mutants=(
        Mutant(
            "slow construction",
            "each kernel takes 8 ms more to build",
            lambda: burning_cpu("esper_async.kasmina.kernels.build.resolve", 0.008),
            fails=(CONSTRUCTED,),
        ),
        Mutant(
            "nothing stays in memory",
            "each look-up goes to the disk",
            lambda: replaced("esper_async.urza.shelves.Shelves.cached", _forgets),
            fails=(IN_MEMORY,),
        ),
        Mutant(
            "slow disk",
            "each blob takes 8 ms more to read",
            lambda: burning_cpu("esper_async.urza.blobs.BlobStore.read", 0.008),
            fails=(ON_DISK,),
        ),
        Mutant(
            "slow proofs",
            "each proof takes 0.4 s more",
            lambda: burning_cpu("esper_async.kasmina.proof.measure_cost", 0.4),
            fails=(PROVED, ONCE),
        ),
        Mutant(
            "certificates not found again",
            "what was proved is proved anew",
            lambda: replaced("esper_async.urza.library.Library.certificate", _forgets),
            fails=(AGAIN,),
        ),
    ),
)
