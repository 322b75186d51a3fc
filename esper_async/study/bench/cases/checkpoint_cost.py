"""What does a checkpoint cost the run that takes it: the copy, and the steps beside its writing?

A host of ten million parameters with Adam's state trains in the real engine, with a checkpoint an
epoch. The copy is of the engine's whole state, against a plain copy of so many bytes from one block
of memory to another. Steps beside a write are held against the quiet ones before and after it.
"""

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

from esper_async.kasmina.snapshot import bytes_in
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
from esper_async.study.bench.checkpoint_laps import LEAST_STEPS, CheckpointLaps
from esper_async.study.bench.interleave import interleaved
from esper_async.study.bench.timed_hosts import WIDE
from esper_async.tolaria.checkpoint import CheckpointStore
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.grower import Grower
from esper_async.tolaria.recovery import Recovery
from esper_async.tolaria.state_copy import Outline, Spare, StateCopy

MOST_COPY, MOST_STEP = 2.0, 1.1
_EPOCHS = {Effort.SHORT: 8, Effort.FULL: 24}
_COPIES = {Effort.SHORT: 20, Effort.FULL: 60}
_COPY = "the copy, against a plain one of its bytes"
_STEPS = {
    clock: f"a step beside a checkpoint's writing, {name}"
    for clock, name in (("cpu_s", "thread CPU time"), ("wall_s", "wall-clock"))
}


def measure(effort: Effort) -> list[Row]:
    """Train with checkpoints, time the steps, then copy the state again and again."""
    laps = CheckpointLaps(WIDE, epochs=_EPOCHS[effort] if wants(*_STEPS.values()) else 1)
    rows: list[Row] = []

    def copy(engine: Engine) -> None:
        if wants(_COPY):
            rows.append(_copy_row(engine, _COPIES[effort]))

    laps.run(copy)
    if wants(*_STEPS.values()):
        rows += [_step_row(laps, clock) for clock in _STEPS]
        rows += _shown(laps)
    return rows


def _copy_row(engine: Engine, rounds: int) -> Row:
    size_bytes = bytes_in(engine._state())
    kept = Recovery(None, in_memory=1)
    source, target = (torch.ones(size_bytes, dtype=torch.uint8) for _ in range(2))

    def plain() -> None:
        ctypes.memmove(target.data_ptr(), source.data_ptr(), size_bytes)

    timed = interleaved(plain, lambda: kept.save(0, engine._state), rounds=rounds)
    compared = timed.compare("wall_s")
    return judged(
        _COPY,
        1e3 * compared.value_s,
        "ms",
        Bar("at most", MOST_COPY),
        baseline=1e3 * compared.baseline_s,
        ratio=compared.ratio.value,
        interval=(compared.ratio.low, compared.ratio.high),
        note=f"{size_bytes / 1e6:.0f} MB; A/A control {compared.control.value:.4f}",
        doubt=compared.doubt(MOST_COPY),
    )


def _step_row(laps: CheckpointLaps, clock: str) -> Row:
    figure, bar = _STEPS[clock], Bar("at most", MOST_STEP)
    if not laps.rounds.middle:
        beside = max(laps.steps_beside, default=0)
        doubt = f"at most {beside} steps were beside a write, not {LEAST_STEPS}"
        return judged(figure, float("nan"), "ms", bar, doubt=doubt)
    compared = laps.rounds.compare(clock)
    return judged(
        figure,
        1e3 * compared.value_s,
        "ms",
        bar,
        baseline=1e3 * compared.baseline_s,
        ratio=compared.ratio.value,
        interval=(compared.ratio.low, compared.ratio.high),
        note=f"medians of {len(laps.rounds.middle)} writes with "
        f"{median(laps.steps_beside):.0f} steps each; A/A control {compared.control.value:.4f}",
        doubt=compared.doubt(MOST_STEP),
    )


def _shown(laps: CheckpointLaps) -> list[Row]:
    def middle(name: str) -> float:
        return median(float(record[name]) for record in laps.written)

    return [
        shown("a checkpoint on disk", middle("bytes") / 1e6, "MB"),
        shown("until it is there", middle("ms"), "ms", note="from the end of its copy on"),
        shown("the copy, in the run", middle("copy_ms"), "ms", note="training waits for it"),
        shown("states in memory", middle("memory_bytes") / 1e6, "MB"),
    ]


# -- mutants ---------------------------------------------------------------------------------------


def _three_times(outline: Outline, spare: Spare | None = None) -> StateCopy:
    copied = _whole_copy(outline)
    for memory in (None, spare):
        copied = _whole_copy(Outline(copied.state), memory)
    return copied


@contextmanager
def _helping_hands() -> Iterator[None]:
    """Have each step beside a write compute as if it had a part in it."""
    stores: list[CheckpointStore] = []

    def save(store: CheckpointStore, *given: Any, **named: Any) -> None:
        stores[:] = [store]
        _whole_save(store, *given, **named)

    def after_step(grower: Grower, batch: Any) -> None:
        _whole_after_step(grower, batch)
        enough = time.thread_time() + _HELP_S
        while stores and stores[0].is_writing and time.thread_time() < enough:
            pass

    with (
        replaced(f"{CheckpointStore.__module__}.CheckpointStore.save", save),
        replaced(f"{Grower.__module__}.Grower.after_step", after_step),
    ):
        yield


_HELP_S = 0.02
_whole_copy = Outline.copy
_whole_save, _whole_after_step = CheckpointStore.save, Grower.after_step

BENCHMARK = Benchmark(
    name="checkpoint-cost",
    question="what does a checkpoint cost the run that takes it?",
    measure=measure,
    mutants=(
        Mutant(
            "copies the copy of a copy",
            "each in memory that the system has to hand out first",
            lambda: replaced(f"{Outline.__module__}.Outline.copy", _three_times),
            fails=(_COPY,),
        ),
        Mutant(
            "training helps to write",
            "as long as a checkpoint is being written, each step computes for 20 ms more",
            _helping_hands,
            fails=tuple(_STEPS.values()),
        ),
    ),
)
