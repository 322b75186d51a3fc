"""What does a decision of the graph policy take, inside a run, beside a busy process?

A step goes from the run as a policy is shown it to the command, weighed and told. To put that view
together is the boundary's assembly, which has a bar of its own (3.5 ms).

The policy's weights are untrained: it acts at most boundaries, and nearly every state has another
topology than the one before.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    shown,
    wants,
)
from esper_async.study.bench.decided_run import timed_run
from esper_async.study.bench.slowing import burning_cpu

_BOUNDARIES = {Effort.SHORT: 24, Effort.FULL: 600}
SIXTEEN, SIXTY_FOUR = "16 sites, 42 blueprints", "64 sites, 42 blueprints"
_BURNT_S, _BURNT_MORE_S = 0.02, 0.2
_STATE = "esper_async.tamiyo.graph.builder.GraphBuilder.state"
_VIEWING = "esper_async.tolaria.seeds_view.ViewMaker.view"
_FORWARD = "esper_async.tamiyo.policies.graph.GraphPolicy.scores"


@dataclass(frozen=True, slots=True)
class _Limits:
    """Most milliseconds."""

    view_p99: float
    tensors: float
    step: float
    step_p99: float
    step_wall_p99: float
    boundary_p99: float
    step_of_sixty_four_p99: float


_LIMITS = {
    Effort.SHORT: _Limits(15.0, 6.0, 20.0, 60.0, 150.0, 180.0, 180.0),
    Effort.FULL: _Limits(3.5, 0.3, 3.0, 8.0, 12.0, 18.0, 15.0),
}
"""The bars are the full form's; the short one sees a decision become several times what it is, on a
machine that may be busy."""


def measure(effort: Effort) -> list[Row]:
    """Time the decisions of a run of sixteen sites, and of one of sixty-four."""
    rows = []
    if wants(*(f"{SIXTEEN}: {name}" for name in (_VIEW, *_NAMES))):
        rows += _rows_of_sixteen(effort)
    if wants(f"{SIXTY_FOUR}: step, CPU, 99th percentile"):
        found = timed_run(sites=64, boundaries=_BOUNDARIES[effort])
        most = _LIMITS[effort].step_of_sixty_four_p99
        rows.append(_judged(f"{SIXTY_FOUR}: step, CPU, 99th percentile", found.step_cpu, 99, most))
    return rows


_VIEW = "putting the view together, CPU, 99th percentile"
_NAMES = (
    "state to tensors, median",
    "step, CPU, median",
    "step, CPU, 99th percentile",
    "step, wall-clock, 99th percentile",
    "boundary without validation, 99th percentile",
)


def _rows_of_sixteen(effort: Effort) -> list[Row]:
    found, most = timed_run(sites=16, boundaries=_BOUNDARIES[effort]), _LIMITS[effort]
    whole = [view + step for view, step in zip(found.view, found.step_cpu, strict=True)]
    return [
        _judged(f"{SIXTEEN}: {_VIEW}", found.view, 99, most.view_p99),
        _judged(f"{SIXTEEN}: {_NAMES[0]}", found.tensors, 50, most.tensors),
        _judged(f"{SIXTEEN}: {_NAMES[1]}", found.step_cpu, 50, most.step),
        _judged(f"{SIXTEEN}: {_NAMES[2]}", found.step_cpu, 99, most.step_p99),
        _judged(f"{SIXTEEN}: {_NAMES[3]}", found.step_wall, 99, most.step_wall_p99),
        _judged(f"{SIXTEEN}: {_NAMES[4]}", found.boundary, 99, most.boundary_p99),
        shown(f"{SIXTEEN}: view and step, CPU, median", float(np.median(whole)), "ms"),
        shown(f"{SIXTEEN}: boundaries at which it acted", found.acted, "boundaries"),
    ]


def _judged(figure: str, times_ms: Sequence[float], percentile: float, most_ms: float) -> Row:
    return judged(
        figure,
        float(np.percentile(times_ms, percentile)),
        "ms",
        Bar("at most", most_ms),
        note=f"{len(times_ms)} boundaries beside a busy process",
    )


@contextmanager
def _seeing_slowly() -> Iterator[None]:
    with burning_cpu(_VIEWING, _BURNT_S), burning_cpu(_STATE, _BURNT_S):
        yield


BENCHMARK = Benchmark(
    name="decision-cost",
    question="what does a decision of the graph policy take?",
    measure=measure,
    mutants=(
        Mutant(
            "sees slowly",
            "a view takes 20 ms more, and so do its tensors",
            _seeing_slowly,
            fails=(f"{SIXTEEN}: {_VIEW}", f"{SIXTEEN}: {_NAMES[0]}"),
        ),
        Mutant(
            "thinks slowly",
            "the network takes 200 ms more",
            lambda: burning_cpu(_FORWARD, _BURNT_MORE_S),
            fails=(f"{SIXTEEN}: step, *", f"{SIXTEEN}: boundary *", f"{SIXTY_FOUR}: step, *"),
        ),
    ),
)
