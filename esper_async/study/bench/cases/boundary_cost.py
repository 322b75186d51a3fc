"""What does a boundary take beyond its validation, when the heuristic decides and seeds move on?

Of a `Grower` in somebody's loop; and of a run as a supervisor has it: with journal, a checkpoint at
each boundary, and the bridge to a real Redis. Thread CPU time, of the thread that trains.
"""

import gc
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esper_async.kasmina.evaluation import Evaluation
from esper_async.kasmina.options import GrowthOptions
from esper_async.leyline import Signer
from esper_async.oona.bridge import Bridge
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
from esper_async.study.bench.bus_load import KEY
from esper_async.study.bench.hosts import ConvHost, batches
from esper_async.study.bench.reader_child import served_and_acknowledged
from esper_async.study.bench.slowing import burning_cpu
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.grower import Grower
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.process import Teller
from esper_async.tolaria.task import Task

BURNT_S = 0.05
_STEPS_BETWEEN = 4
_RATE = 3e-3
_BLUEPRINTS = ["BP003", "BP009", "BP014", "BP020"]
_GROWTH = GrowthOptions(  # ten boundaries in the shadow, as MNIST-1D has them by default
    dwell_steps=10 * _STEPS_BETWEEN,
    parameter_budget=1e3,
    ramp_boundaries=1,
    window_boundaries=1,
    embargo_boundaries=1,
    max_seeds=3,
)
_DRAIN_S = 10.0
_GROWER, _RUN = "Grower", "run with journal, checkpoints and bus"
_MEDIAN, _P99, _LONGEST = "{}: boundary, median", "{}: boundary, 99th percentile", "{}: longest"


@dataclass(frozen=True, slots=True)
class _Extent:
    """Boundaries of the grower and of the run, and the most milliseconds that they may take."""

    boundaries: int
    of_the_run: int
    median_ms: float
    p99_ms: float
    run_median_ms: float
    run_p99_ms: float


_EXTENTS = {
    Effort.SHORT: _Extent(100, 40, 3.0, 20.0, 12.0, 45.0),
    Effort.FULL: _Extent(400, 400, 3.0, 10.0, 3.0, 10.0),
}
"""The bars are the full form's. Of a hundred boundaries, as many as the short form has, the 99th
percentile is the second longest."""


class _TimedGrower(Grower):
    """A grower that keeps what each evaluation took, for the boundary's own time without it."""

    evaluation_s = 0.0

    def _evaluate(self, loader: Iterable[Any]) -> dict[str, Evaluation]:
        started = time.thread_time()
        try:
            return super()._evaluate(loader)
        finally:
            self.evaluation_s = time.thread_time() - started


class _TimedEngine(Engine):
    """An engine that keeps what each boundary took, from its first record to its last."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.own_ms: list[float] = []

    def _pass_boundary(self) -> None:
        started = time.thread_time()
        super()._pass_boundary()
        assert isinstance(self.grower, _TimedGrower)
        own_s = time.thread_time() - started - self.grower.evaluation_s
        self.own_ms.append(1e3 * own_s)


def measure(effort: Effort) -> list[Row]:
    """Let the heuristic grow a small host, so that seeds are planted, judged and removed."""
    threads, extent = torch.get_num_threads(), _EXTENTS[effort]
    torch.set_num_threads(1)
    try:
        rows = []
        if wants(*_names(_GROWER)):
            rows += _rows(
                _GROWER, *_of_a_grower(extent.boundaries), extent.median_ms, extent.p99_ms
            )
        if wants(*_names(_RUN)):
            rows += _rows(
                _RUN, *_of_a_run(extent.of_the_run), extent.run_median_ms, extent.run_p99_ms
            )
        return rows
    finally:
        torch.set_num_threads(threads)


def _names(whose: str) -> list[str]:
    return [name.format(whose) for name in (_MEDIAN, _P99)]


def _rows(
    whose: str, own_ms: list[float], changes: int, median_ms: float, p99_ms: float
) -> list[Row]:
    median, p99 = _names(whose)
    note = f"{len(own_ms)} boundaries, {changes} stage changes; without validation"
    return [
        judged(median, float(np.median(own_ms)), "ms", Bar("at most", median_ms), note=note),
        judged(p99, float(np.percentile(own_ms, 99)), "ms", Bar("at most", p99_ms), note=note),
        shown(_LONGEST.format(whose), max(own_ms), "ms"),
    ]


def _of_a_grower(count: int) -> tuple[list[float], int]:
    """Return what each boundary of a loop by hand took, in ms, and how many stages changed."""
    torch.manual_seed(0)
    model = ConvHost()
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
    grower = _TimedGrower(
        model,
        optimizer,
        loss=nn.functional.cross_entropy,
        policy="heuristic",
        growth=_GROWTH,
        boundaries=count,
        state_dir=None,
        blueprints=_BLUEPRINTS,
        train_step=_train_step,
    )
    data, validation = batches(_STEPS_BETWEEN), batches(2, seed=1)
    grower.prepare(data[0])
    own_ms: list[float] = []
    changes = 0
    for _ in range(count):
        for batch in data:
            with grower.step(batch):
                _train_step(model, optimizer, batch)
        started = time.thread_time()
        report = grower.boundary(validation)
        own_ms.append(1e3 * (time.thread_time() - started - grower.evaluation_s))
        changes += len(report.transitions)
    return own_ms, changes


def _of_a_run(count: int) -> tuple[list[float], int]:
    """Return the same of a run of the engine, as its process makes it."""
    torch.manual_seed(0)
    task = Task(
        model=ConvHost(),
        train_loader=batches(_STEPS_BETWEEN),
        validation_loader=batches(2, seed=1),
        loss=nn.functional.cross_entropy,
        optimizer=partial(torch.optim.Adam, lr=_RATE),
    )
    options = RunOptions(epochs=count, policy="heuristic", threads=1, growth=_GROWTH)
    with (
        served_and_acknowledged() as url,
        tempfile.TemporaryDirectory(prefix="esper-bench-") as place,
        replaced("esper_async.tolaria.engine.Grower", _TimedGrower),
    ):
        folder = Path(place)
        bridge = Bridge(url, folder / "spool", Signer(KEY), "tolaria/run").start()
        engine = _TimedEngine(
            task,
            options,
            folder=folder,
            listener=Teller(bridge, "run", loss_unit="nats").tell,
            blueprints=_BLUEPRINTS,
        )
        gc.freeze()  # as the training process does
        try:
            outcome = engine.run()
        finally:
            gc.unfreeze()
            engine.close()
            report = bridge.close(_DRAIN_S)
    if not report.clean:
        raise RuntimeError(f"the bus did not get everything: {report}")
    return engine.own_ms, len(outcome.transitions)


def _train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> Tensor:
    optimizer.zero_grad(set_to_none=True)
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


BENCHMARK = Benchmark(
    name="boundary-cost",
    question="what does a boundary take beyond its validation?",
    measure=measure,
    mutants=(
        Mutant(
            "judges slowly",
            "advancing the seeds computes for 50 ms",
            lambda: burning_cpu("esper_async.kasmina.executor.Executor.advance", BURNT_S),
            fails=(f"{_GROWER}: boundary, *",),
        ),
        Mutant(
            "writes a checkpoint itself",
            "to save computes for 50 ms, in the thread that trains",
            lambda: burning_cpu("esper_async.tolaria.recovery.Recovery.save", BURNT_S),
            fails=(f"{_RUN}: boundary, *",),
        ),
    ),
)
