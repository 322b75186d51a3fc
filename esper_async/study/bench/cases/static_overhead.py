"""What does Esper cost a run that never grows? The engine against a loop written by hand.

The engine's own training loader is the stop-watch: between two batches it hands out, it runs the
loop by hand on a copy of the host. So the engine's whole path is timed, journal and checkpoints
included, and both see the same machine at the same time.
"""

import copy
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    shown,
)
from esper_async.study.bench.interleave import (
    BEYOND_NOISE,
    CONTROL_TOLERANCE,
    Lap,
    Rounds,
    Stopwatch,
)
from esper_async.study.statistics import bootstrap_interval
from esper_async.tasks.images import ImageHost
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.grower import Grower
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.task import Task

MOST_STEP_RATIO = 1.03
MOST_BOUNDARY_MS = 10.0
LEAST_STEP_MS = 3.0
STEPS_A_LAP = 5
LAPS_AN_EPOCH = 4
WARM_ROUNDS = 3
VALIDATION_SAMPLES = 512
MOST_SYNC_MS = 1.0
"""How long the disk may take to a record of a journal: a boundary waits for a few of them."""
RECORD_BYTES = 700
_EPOCHS = {Effort.SHORT: 12, Effort.FULL: 40}


def measure(effort: Effort) -> list[Row]:
    """Run the engine with the static policy and the loop by hand, interleaved."""
    bench = _Interleaved(_EPOCHS[effort])
    bench.run()
    by_hand_ms = 1e3 * bench.rounds.compare("cpu_s").baseline_s / STEPS_A_LAP
    too_small = (
        f"the step by hand takes {by_hand_ms:.1f} ms; the bar is for one of {LEAST_STEP_MS:g} ms"
        if by_hand_ms < LEAST_STEP_MS
        else ""
    )
    rows = []
    for clock, name in (("cpu_s", "thread CPU time"), ("wall_s", "wall-clock")):
        compared = bench.rounds.compare(clock)
        rows.append(
            judged(
                f"step, {name}",
                1e3 * compared.value_s / STEPS_A_LAP,
                "ms",
                Bar("at most", MOST_STEP_RATIO),
                baseline=1e3 * compared.baseline_s / STEPS_A_LAP,
                ratio=compared.ratio.value,
                interval=(compared.ratio.low, compared.ratio.high),
                note=f"A/A control {compared.control.value:.4f}",
                doubt=too_small or compared.doubt(MOST_STEP_RATIO),
            )
        )
    rows += [
        bench.boundary_row("cpu_s", "thread CPU time"),
        bench.boundary_row("wall_s", "wall-clock"),
    ]
    return [*rows, shown("the step by hand", by_hand_ms, "ms")]


class _ByHand:
    """The loop that a user would have written."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def train(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        """Train on batches of images (N, 1, 28, 28) and labels (N,)."""
        for inputs, targets in batches:
            self.optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(self.model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    def validate(self, batches: list[tuple[Tensor, Tensor]]) -> float:
        """Return the loss by sample."""
        self.model.eval()
        total, count = torch.zeros(()), 0
        with torch.no_grad():
            for inputs, targets in batches:
                loss = nn.functional.cross_entropy(self.model(inputs), targets, reduction="sum")
                total += loss
                count += len(targets)
        self.model.train()
        return float(total) / count


class _Interleaved:
    """A training loader that times the engine it feeds, against the loop by hand."""

    def __init__(self, epochs: int) -> None:
        torch.manual_seed(0)
        model = ImageHost(24, depth=2, kernel_size=5, stride=2, pooled=2, classes=10)
        self.rounds = Rounds()
        self.validations = Rounds()
        self.syncs: list[Lap] = []
        self._epochs = epochs
        self._model = model
        self._by_hand = _ByHand(copy.deepcopy(model))
        self._batches = _batches(STEPS_A_LAP, 64)
        self._validation = _batches(VALIDATION_SAMPLES // 256, 256)
        self._seen = 0
        self._ended = _now()
        self._by_hand_laps = self._ended, self._ended
        self._record = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by `run`

    def run(self) -> None:
        """Train to the end; the laps are then in `rounds`."""
        task = Task(
            model=self._model,
            train_loader=self,
            validation_loader=self._validation,
            loss=nn.functional.cross_entropy,
            optimizer=partial(torch.optim.Adam, lr=1e-3),
        )
        options = RunOptions(epochs=self._epochs, policy="static", threads=1)
        with self._record, tempfile.TemporaryDirectory() as folder:
            engine = Engine(task, options, folder=Path(folder))
            try:
                engine.run()
            finally:
                engine.close()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self._note_boundary()
        for _ in range(LAPS_AN_EPOCH):
            yield from self._round()
        self._validated()  # the first after training finds its memory still warm: 8 % quicker
        self._by_hand_laps = self._validated(), self._validated()
        self._ended = _now()

    def _round(self) -> Iterator[tuple[Tensor, Tensor]]:
        watch = Stopwatch()
        self._lap_by_hand(watch)
        yield self._batches[0]  # untimed, as in the other laps
        with watch.lap():
            yield from self._batches  # the engine's own step runs between two of them
        self._lap_by_hand(watch)
        self._seen += 1
        if self._seen > WARM_ROUNDS:
            for laps, lap in zip(
                (self.rounds.before, self.rounds.middle, self.rounds.after),
                watch.laps,
                strict=True,
            ):
                laps.append(lap)

    def _lap_by_hand(self, watch: Stopwatch) -> None:
        """Train by hand; a step before that is not timed, since it finds the caches cold."""
        self._by_hand.train(self._batches[:1])
        with watch.lap():
            self._by_hand.train(self._batches)

    def _note_boundary(self) -> None:
        """Time the boundary between the last epoch's end and now, and what it is held against."""
        now = _now()
        if not self._seen:
            return
        for laps, lap in zip(
            (self.validations.before, self.validations.after), self._by_hand_laps, strict=True
        ):
            laps.append(lap)
        self.validations.middle.append(
            Lap(now.cpu_s - self._ended.cpu_s, now.wall_s - self._ended.wall_s)
        )
        watch = Stopwatch()
        with watch.lap():
            self._record.write(bytes(RECORD_BYTES))
            os.fsync(self._record.fileno())
        self.syncs += watch.laps

    def _validated(self) -> Lap:
        watch = Stopwatch()
        with watch.lap():
            self._by_hand.validate(self._validation)
        return watch.laps[0]

    def boundary_row(self, clock: str, name: str) -> Row:
        """Judge the boundary beyond validation itself, journal and checkpoint included.

        Two validations by hand right before it are its baseline and A/A control.
        """
        before, whole, after = (
            np.array([1e3 * getattr(lap, clock) for lap in laps[1:]])
            for laps in (
                self.validations.before,
                self.validations.middle,
                self.validations.after,
            )
        )
        estimate = bootstrap_interval([whole - (before + after) / 2], lambda v: float(np.median(v)))
        control = float(np.median(after / before))
        return judged(
            f"boundary beyond validation, {name}",
            estimate.value,
            "ms",
            Bar("at most", MOST_BOUNDARY_MS),
            interval=(estimate.low, estimate.high),
            note=f"validation by hand {float(np.median(before)):.1f} ms, A/A control {control:.4f}",
            doubt=self._doubt(clock, control, float(np.median(before)), estimate.low),
        )

    def _doubt(self, clock: str, control: float, validation_ms: float, low_ms: float) -> str:
        """Why a boundary's time is not to be believed; empty where noise cannot explain it."""
        sync_ms = 1e3 * float(np.median([lap.wall_s for lap in self.syncs]))
        noise_ms = abs(control - 1.0) * validation_ms
        if clock == "wall_s":
            noise_ms += sync_ms
        if low_ms > MOST_BOUNDARY_MS + BEYOND_NOISE * noise_ms:
            return ""
        if clock == "wall_s" and sync_ms > MOST_SYNC_MS:
            return f"the disk takes {sync_ms:.1f} ms to a record; the bar is for {MOST_SYNC_MS:g}"
        if abs(control - 1.0) > CONTROL_TOLERANCE:
            return f"A/A control off by {abs(control - 1.0):.1%}; the machine is too noisy"
        return ""


def _now() -> Lap:
    return Lap(time.thread_time(), time.perf_counter())


def _batches(count: int, size: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, 1, 28, 28, generator=generator),
            torch.randint(0, 10, (size,), generator=generator),
        )
        for _ in range(count)
    ]


_whole_after_step = Grower.after_step
_whole_boundary = Grower.boundary


def _with_a_forward(grower: Grower, batch: tuple[Tensor, Tensor]) -> None:
    with torch.no_grad():
        grower.model(batch[0])
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
            fails=("step, *",),
        ),
        Mutant(
            "validates twice",
            "every boundary evaluates the decision split once more",
            lambda: replaced(
                "esper_async.tolaria.grower.Grower.boundary", _with_a_second_validation
            ),
            fails=("boundary beyond validation, *",),
        ),
    ),
)
