"""What does Esper cost a run that never grows? The engine against a loop written by hand."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    wants,
)
from esper_async.study.bench.engine_laps import EngineLaps
from esper_async.study.bench.interleave import BEYOND_NOISE, CONTROL_TOLERANCE, Lap, Rounds
from esper_async.study.bench.timed_hosts import CONV, PERCEPTRON, TRANSFORMER, TimedHost
from esper_async.study.statistics import Estimate, bootstrap_interval
from esper_async.tolaria.grower import Grower

MOST_BOUNDARY_MS = 10.0
MOST_SYNC_MS = 1.0
"""How long the disk may take to a record of a journal: a boundary waits for a few of them."""
_EPOCHS = {Effort.SHORT: 6, Effort.FULL: 12}
_ENGINES = {Effort.SHORT: 3, Effort.FULL: 5}
"""Each has weights at other places in memory, which alone may make some percent: over the bar is
what all of them are over."""


_STEP, _BOUNDARY = "{}: step, {}", "{}: boundary beyond validation, {}"
_TIMED = (_STEP, _BOUNDARY)


@dataclass(frozen=True, slots=True)
class _Bars:
    """How much slower a step may be, and from how many milliseconds on that is a fair bar."""

    most_ratio: float
    least_ms: float


BARS = {
    CONV: _Bars(1.02, 3.0),
    TRANSFORMER: _Bars(1.02, 3.0),
    PERCEPTRON: _Bars(1.05, 0.4),
}


def measure(effort: Effort) -> list[Row]:
    """Run the engine with the static policy and the loop by hand, host by host.

    The short form times the convolution net alone; the others are near their bars, which a short
    look cannot tell.
    """
    hosts = BARS if effort is Effort.FULL else (CONV,)
    return [row for host in hosts for row in _rows(host, BARS[host], effort)]


def _rows(host: TimedHost, bars: _Bars, effort: Effort) -> list[Row]:
    if not wants(*_TIMED):  # weights can be compared after any run
        engine = EngineLaps(host, epochs=1)
        engine.run()
        return [_weights_row(host, [engine])]
    engines = [EngineLaps(host, epochs=_EPOCHS[effort]) for _ in range(_ENGINES[effort])]
    rounds, boundaries = Rounds(), Rounds()
    syncs: list[Lap] = []
    for engine in engines:
        engine.run()
        rounds.extend(engine.rounds)
        boundaries.extend(engine.boundaries)
        syncs += engine.syncs
    rows = _step_rows(host, bars, rounds, engines)
    if host is CONV:
        rows += [
            _boundary_row(boundaries, syncs, "cpu_s", "thread CPU time"),
            _boundary_row(boundaries, syncs, "wall_s", "wall-clock"),
        ]
    return [*rows, _weights_row(host, engines)]


def _step_rows(
    host: TimedHost, bars: _Bars, rounds: Rounds, engines: Sequence[EngineLaps]
) -> list[Row]:
    by_hand_ms = 1e3 * rounds.compare("cpu_s").baseline_s / host.lap_steps
    too_small = (
        f"the step by hand takes {by_hand_ms:.2f} ms; the bar is for one of {bars.least_ms:g} ms"
        if by_hand_ms < bars.least_ms
        else ""
    )
    rows = []
    for clock, name in (("cpu_s", "thread CPU time"), ("wall_s", "wall-clock")):
        compared = rounds.compare(clock)
        least = min(engine.rounds.compare(clock).ratio.value for engine in engines)
        placed = (
            f"of {len(engines)} engines one is within the bar, at {least:.3f}"
            if least <= bars.most_ratio < compared.ratio.low
            else ""
        )
        rows.append(
            judged(
                _STEP.format(host.name, name),
                1e3 * compared.value_s / host.lap_steps,
                "ms",
                Bar("at most", bars.most_ratio),
                baseline=1e3 * compared.baseline_s / host.lap_steps,
                ratio=compared.ratio.value,
                interval=(compared.ratio.low, compared.ratio.high),
                note=f"A/A control {compared.control.value:.4f}",
                doubt=too_small or placed or compared.doubt(bars.most_ratio),
            )
        )
    return rows


def _weights_row(host: TimedHost, engines: Sequence[EngineLaps]) -> Row:
    return judged(
        f"{host.name}: tensors that differ from the loop's",
        float(sum(engine.differing_weights() for engine in engines)),
        "",
        Bar("at most", 0.0),
        note="at the end of the run, bitwise",
    )


def _boundary_row(timed: Rounds, syncs: Sequence[Lap], clock: str, name: str) -> Row:
    """Judge the boundary beyond validation itself, journal and checkpoint included.

    Two validations by hand right before it are its baseline and A/A control.
    """
    before, whole, after = (
        np.array([1e3 * getattr(lap, clock) for lap in each[1:]])
        for each in (timed.before, timed.middle, timed.after)
    )
    estimate = bootstrap_interval([whole - (before + after) / 2], lambda v: float(np.median(v)))
    control = float(np.median(after / before))
    validation_ms = float(np.median(before))
    sync_ms = 1e3 * float(np.median([lap.wall_s for lap in syncs]))
    waits_ms = sync_ms if clock == "wall_s" else 0.0
    return judged(
        _BOUNDARY.format(CONV.name, name),
        estimate.value,
        "ms",
        Bar("at most", MOST_BOUNDARY_MS),
        interval=(estimate.low, estimate.high),
        note=f"validation by hand {validation_ms:.1f} ms, A/A control {control:.4f}",
        doubt=boundary_doubt(estimate, abs(control - 1.0) * validation_ms, validation_ms, waits_ms),
    )


def boundary_doubt(took_ms: Estimate, noise_ms: float, validation_ms: float, sync_ms: float) -> str:
    """Why a boundary's time is not to be believed; empty where noise cannot explain it.

    `noise_ms` is what the control is off, `sync_ms` what the disk takes: a slow one explains a long
    boundary, and no short one.
    """
    if took_ms.low > MOST_BOUNDARY_MS + BEYOND_NOISE * (noise_ms + sync_ms):
        return ""
    if took_ms.high < MOST_BOUNDARY_MS - BEYOND_NOISE * noise_ms:
        return ""
    if sync_ms > MOST_SYNC_MS:
        return f"the disk takes {sync_ms:.1f} ms to a record; the bar is for {MOST_SYNC_MS:g}"
    off = noise_ms / validation_ms
    if off > CONTROL_TOLERANCE:
        return f"A/A control off by {off:.1%}; the machine is too noisy"
    return ""


_whole_after_step = Grower.after_step
_whole_boundary = Grower.boundary


def _with_a_forward(grower: Grower, batch: tuple[Tensor, Tensor]) -> None:
    with torch.no_grad():
        grower.model(batch[0])
    _whole_after_step(grower, batch)


def _with_a_touch(grower: Grower, batch: object) -> None:
    with torch.no_grad():
        next(grower.model.parameters()).add_(1e-9)
    _whole_after_step(grower, batch)


def _with_a_second_validation(grower: Grower, loader: object, **details: object) -> object:
    grower.score(loader)  # type: ignore[arg-type]
    return _whole_boundary(grower, loader, **details)  # type: ignore[arg-type]


BENCHMARK = Benchmark(
    name="static-overhead",
    question="what does a run that never grows pay, against a loop by hand?",
    measure=measure,
    mutants=(
        Mutant(
            "a shadow pass without a seed",
            "one more forward pass after every step",
            lambda: replaced("esper_async.tolaria.grower.Grower.after_step", _with_a_forward),
            fails=("*: step, *",),
        ),
        Mutant(
            "touches a weight",
            "a billionth is added to the host's first parameter after every step",
            lambda: replaced("esper_async.tolaria.grower.Grower.after_step", _with_a_touch),
            fails=("*: tensors that differ from the loop's",),
        ),
        Mutant(
            "validates twice",
            "every boundary evaluates the decision split once more",
            lambda: replaced(
                "esper_async.tolaria.grower.Grower.boundary", _with_a_second_validation
            ),
            fails=("*: boundary beyond validation, *",),
        ),
    ),
)
