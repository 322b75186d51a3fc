"""What does a boundary take beyond its validation, when the heuristic decides and seeds move on?"""

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esper_async.kasmina.evaluation import Evaluation
from esper_async.kasmina.options import GrowthOptions
from esper_async.study.bench.benchmark import Bar, Benchmark, Effort, Mutant, Row, judged, shown
from esper_async.study.bench.hosts import ConvHost, batches
from esper_async.study.bench.slowing import burning_cpu
from esper_async.tolaria.grower import Grower

MOST_MEDIAN_MS = 3.0
MOST_P99_MS = {Effort.SHORT: 20.0, Effort.FULL: 10.0}
"""Of a hundred boundaries, as many as the short form has, that is the second longest."""
BURNT_S = 0.05
_BOUNDARIES = {Effort.SHORT: 100, Effort.FULL: 400}
_STEPS_BETWEEN = 4
_GROWTH = GrowthOptions(  # ten boundaries in the shadow, as MNIST-1D has them by default
    dwell_steps=10 * _STEPS_BETWEEN,
    parameter_budget=1e3,
    ramp_boundaries=1,
    window_boundaries=1,
    embargo_boundaries=1,
    max_seeds=3,
)


class _Timed(Grower):
    """A grower that keeps what each evaluation took, for the boundary's own time without it."""

    evaluation_s = 0.0

    def _evaluate(self, loader: Iterable[Any]) -> dict[str, Evaluation]:
        started = time.thread_time()
        try:
            return super()._evaluate(loader)
        finally:
            self.evaluation_s = time.thread_time() - started


def measure(effort: Effort) -> list[Row]:
    """Let the heuristic grow a small host, so that seeds are planted, judged and removed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _rows(_BOUNDARIES[effort], MOST_P99_MS[effort])
    finally:
        torch.set_num_threads(threads)


def _rows(count: int, most_p99_ms: float) -> list[Row]:
    torch.manual_seed(0)
    model = ConvHost()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    grower = _Timed(
        model,
        optimizer,
        loss=nn.functional.cross_entropy,
        policy="heuristic",
        growth=_GROWTH,
        boundaries=count,
        state_dir=None,
        blueprints=["BP003", "BP009", "BP014", "BP020"],
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
    note = f"{count} boundaries, {changes} stage changes; thread CPU time"
    return [
        judged(
            "boundary without validation, median",
            float(np.median(own_ms)),
            "ms",
            Bar("at most", MOST_MEDIAN_MS),
            note=note,
        ),
        judged(
            "boundary without validation, 99th percentile",
            float(np.percentile(own_ms, 99)),
            "ms",
            Bar("at most", most_p99_ms),
            note=note,
        ),
        shown("boundary without validation, longest", max(own_ms), "ms"),
    ]


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
            fails=("boundary without validation, median", "boundary without validation, 99th *"),
        ),
    ),
)
