"""What does a run pay in which everything is on, and no seed is planted? Against a loop by hand.

Everything: the bridge to a real Redis, the journal, a checkpoint at each boundary, and `heuristic`
over sixteen DORMANT sites with eight blueprints that may be planted there, which is asked at each
boundary before the one from which it plants. Run and loop take turns of an epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from esper_async.kasmina.legal import MemoryStore
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
from esper_async.study.bench.everything_laps import EverythingLaps
from esper_async.study.bench.interleave import Rounds
from esper_async.study.bench.reader_child import served_and_acknowledged
from esper_async.study.bench.slowing import burning_cpu
from esper_async.study.bench.timed_hosts import CONV, TRANSFORMER, TimedHost
from esper_async.tolaria.grower import Grower

MOST_RATIO, MOST_IN_SHORT = 1.03, 1.5
"""The short form has too few rounds for the bar itself, and more boundaries for its steps: it finds
what is far off."""
LEAST_MS = 3.0
STEPS = {CONV: 47, TRANSFORMER: 64}
"""Between two boundaries: an epoch of the built-in tasks `mnist5k` and `shakespeare`."""
_AFTER_STEP = "esper_async.tolaria.grower.Grower.after_step"
_DECIDE = "esper_async.tamiyo.policies.heuristic.HeuristicPolicy.decide"


@dataclass(frozen=True, slots=True)
class _Extent:
    """How much a form measures: hosts, runs and timed epochs of each; the ratio's bar.

    Each run has weights at other places in memory, which alone may make a percent. An epoch has
    `most_steps` at most.
    """

    hosts: Sequence[TimedHost]
    runs: int
    turns: int
    most_steps: int
    most: float


_EXTENTS = {
    Effort.SHORT: _Extent((CONV,), runs=1, turns=4, most_steps=16, most=MOST_IN_SHORT),
    Effort.FULL: _Extent((CONV, TRANSFORMER), runs=4, turns=12, most_steps=64, most=MOST_RATIO),
}
_CLOCKS = (("cpu_s", "CPU time of all threads"), ("wall_s", "wall-clock"))
_STEP, _DIFFER = "{}: step, {}", "{}: tensors and outputs that differ from the loop's"


def measure(effort: Effort) -> list[Row]:
    """Train by hand and by the engine in turns, on one torch thread."""
    threads, extent = torch.get_num_threads(), _EXTENTS[effort]
    torch.set_num_threads(1)
    try:
        with served_and_acknowledged() as url:
            return [row for host in extent.hosts for row in _rows(host, extent, url)]
    finally:
        torch.set_num_threads(threads)


def _rows(host: TimedHost, extent: _Extent, url: str) -> list[Row]:
    steps = min(STEPS[host], extent.most_steps)
    timed = any(wants(_STEP.format(host.name, name)) for _, name in _CLOCKS)
    certificates, rounds, own, differing = MemoryStore(), Rounds(), Rounds(), 0
    for _ in range(extent.runs):
        turns = extent.turns if timed else 1  # weights can be compared after any run
        laps = EverythingLaps(host, steps=steps, turns=turns, certificates=certificates)
        laps.run(url)
        rounds.extend(laps.rounds)
        own.extend(laps.own)
        differing += laps.differing()
    return [
        *(_step_row(host, steps, rounds, *clock, most=extent.most) for clock in _CLOCKS),
        _own_row(host, own),
        judged(
            _DIFFER.format(host.name),
            float(differing),
            "",
            Bar("at most", 0.0),
            note="at the end of the runs, bitwise",
        ),
    ]


def _step_row(
    host: TimedHost, steps: int, rounds: Rounds, clock: str, name: str, *, most: float
) -> Row:
    compared = rounds.compare(clock)
    by_hand_ms = 1e3 * compared.baseline_s / steps
    small = (
        f"a step by hand takes {by_hand_ms:.2f} ms; the bar is for one of {LEAST_MS:g} ms"
        if by_hand_ms < LEAST_MS
        else ""
    )
    return judged(
        _STEP.format(host.name, name),
        1e3 * compared.value_s / steps,
        "ms",
        Bar("at most", most),
        baseline=by_hand_ms,
        ratio=compared.ratio.value,
        interval=(compared.ratio.low, compared.ratio.high),
        note=f"a boundary each {steps} steps; A/A control {compared.control.value:.4f}",
        doubt=small or compared.doubt(most),
    )


def _own_row(host: TimedHost, rounds: Rounds) -> Row:
    ratio = rounds.compare("cpu_s").ratio
    return shown(
        f"{host.name}: CPU time of the training thread, over that by hand",
        ratio.value,
        "",
        note=f"{ratio.low:.3f} … {ratio.high:.3f}",
    )


_whole_after_step = Grower.after_step


def _with_a_touch(grower: Grower, batch: Any) -> None:
    with torch.no_grad():
        next(grower.model.parameters()).add_(1e-9)
    _whole_after_step(grower, batch)


BENCHMARK = Benchmark(
    name="everything-on",
    question="what does a run pay in which everything is on, and no seed is planted?",
    measure=measure,
    mutants=(
        Mutant(
            "slow steps",
            "after each step the training thread computes for 15 ms",
            lambda: burning_cpu(_AFTER_STEP, 0.015),
            fails=("*: step, *",),
        ),
        Mutant(
            "slow decisions",
            "the policy, on its own thread, takes half a second at each boundary",
            lambda: burning_cpu(_DECIDE, 0.5),
            fails=("*: step, *",),
        ),
        Mutant(
            "touches a weight",
            "a billionth is added to the host's first parameter after every step",
            lambda: replaced(_AFTER_STEP, _with_a_touch),
            fails=("*: tensors and outputs that differ from the loop's",),
        ),
    ),
)
