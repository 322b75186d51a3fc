"""What does a run pay while it grows? A seed in the shadow, planting and removing one, deciding.

Everything is timed in the thread that trains. A seed in the shadow is held against a loop by hand;
planting and removing against the steps of a run that has the same seed in its shadow all along.
"""

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esper_async.kasmina.evaluation import Evaluation
from esper_async.kasmina.executor import Executor
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Candidate
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
from esper_async.study.bench.engine_laps import Batch, LoopByHand, TimedHost
from esper_async.study.bench.hosts import ConvHost, batches
from esper_async.study.bench.interleave import Comparison, Lap, Rounds, Stopwatch
from esper_async.study.bench.planting import PlantOnce
from esper_async.tamiyo.command import Cull, Germinate
from esper_async.tasks.images import ImageHost
from esper_async.tolaria.grower import Grower

MOST_SHADOW_RATIO = 1.45
MOST_CPU = 3.0
MOST_WALL = {Effort.SHORT: 3.0, Effort.FULL: 1.5}
"""In wall-clock time; the short form has too few steps to know how long the longest may be."""
MOST_MEDIAN_MS = 3.0
MOST_P99_MS = {Effort.SHORT: 20.0, Effort.FULL: 10.0}
"""Of a hundred boundaries, as many as the short form has, that is the second longest."""
KERNEL, SMALL_KERNEL = "BP009", "BP003"
"""An inverted bottleneck of 28 thousand parameters, and one that has a scale a channel."""
_LAP_STEPS, _COLD_STEPS = 6, 2
_ROUNDS = 40
_CYCLES = {Effort.SHORT: 12, Effort.FULL: 60}
_BOUNDARIES = {Effort.SHORT: 100, Effort.FULL: 400}
_STEPS_BETWEEN = 4


def _images(size: int, generator: torch.Generator) -> Batch:
    images = torch.randn(size, 1, 28, 28, generator=generator)
    return images, torch.randint(0, 10, (size,), generator=generator)


HOST = TimedHost(
    "conv net",
    lambda: ImageHost(24, depth=2, kernel_size=5, stride=2, pooled=2, classes=10),
    _images,
    nn.functional.cross_entropy,
    batch_size=64,
    lap_steps=_LAP_STEPS,
)
_SHADOWED = GrowthOptions(dwell_steps=10**9, parameter_budget=1e3, shadow_every=2)
_EACH_STEP = GrowthOptions(
    dwell_steps=10**9, parameter_budget=1e3, shadow_every=1, embargo_boundaries=0
)
_DECIDING = GrowthOptions(  # ten boundaries in the shadow, as MNIST-1D has them by default
    dwell_steps=10 * _STEPS_BETWEEN,
    parameter_budget=1e3,
    ramp_boundaries=1,
    window_boundaries=1,
    embargo_boundaries=1,
    max_seeds=3,
)


def measure(effort: Effort) -> list[Row]:
    """Time the shadow, then the operations, then the boundaries, on one torch thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [
            *_shadow_rows(effort),
            *_surgery_rows(effort),
            *_boundary_rows(effort),
        ]
    finally:
        torch.set_num_threads(threads)


class _Grown:
    """The host under a `Grower` whose policy does nothing, trained by a plain loop."""

    def __init__(self, model: nn.Module, options: GrowthOptions, sample: Batch) -> None:
        self.model = model
        self._optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        self.grower = Grower(
            model,
            self._optimizer,
            loss=HOST.loss,
            policy=PlantOnce(boundary=-1),
            growth=options,
            state_dir=None,
            blueprints=[KERNEL, SMALL_KERNEL],
        )
        self.grower.prepare(sample)

    @property
    def executor(self) -> Executor:
        """What carries out operations."""
        assert self.grower.executor is not None
        return self.grower.executor

    def plant(self, kernel: str = KERNEL) -> str:
        """Plant a kernel at the first site; return the seed's id."""
        before = set(self.executor.seeds)
        site = self.grower.sites[0].name
        self.grower.carry_out(Germinate((Candidate(site, kernel),)))
        (planted,) = set(self.executor.seeds) - before
        return planted

    def pass_boundary(self, batch: Batch) -> None:
        """Train a step and pass a boundary, so that a site which was emptied may be used again."""
        self.train([batch])
        self.grower.boundary([batch])

    def train(self, batches: Iterable[Batch]) -> None:
        """Train on each batch once."""
        for batch in batches:
            with self.grower.step(batch):
                self._optimizer.zero_grad(set_to_none=True)
                loss = HOST.loss(self.model(batch[0]), batch[1])
                loss.backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()


# -- a seed in the shadow --------------------------------------------------------------------------


def _shadow_rows(effort: Effort) -> list[Row]:
    """Judge the small kernel, show the large one; the short form has no time for either."""
    if effort is Effort.SHORT:
        return []
    small, large = (_shadowed(kernel) for kernel in (SMALL_KERNEL, KERNEL))
    figure = "step with a seed in TRAINING, {}, thread CPU time"
    ratio = small.ratio
    return [
        judged(
            figure.format(SMALL_KERNEL),
            1e3 * small.value_s / _LAP_STEPS,
            "ms",
            Bar("at most", MOST_SHADOW_RATIO),
            baseline=1e3 * small.baseline_s / _LAP_STEPS,
            ratio=ratio.value,
            interval=(ratio.low, ratio.high),
            note="at the first site, shadow every 2nd batch; "
            f"A/A control {small.control.value:.4f}",
            doubt=small.doubt(MOST_SHADOW_RATIO),
        ),
        shown(
            figure.format(KERNEL),
            1e3 * large.value_s / _LAP_STEPS,
            "ms",
            note=f"{large.ratio.value:.2f} times the step by hand, of {large.ratio.low:.2f} to "
            f"{large.ratio.high:.2f}",
        ),
    ]


def _shadowed(kernel: str) -> Comparison:
    model, data = _host_and_batches()
    by_hand = LoopByHand(HOST, model, epochs=1)
    grown = _Grown(copy.deepcopy(model), _SHADOWED, data[0])
    grown.plant(kernel)
    rounds = Rounds()
    for number in range(_ROUNDS + 1):
        laps = [_lap(train, data) for train in (by_hand.train, grown.train, by_hand.train)]
        if number:
            rounds.add(*laps)
    return rounds.compare("cpu_s")


def _lap(train: Callable[[list[Batch]], None], data: list[Batch]) -> Lap:
    """Time a lap; the steps before it, which find the caches cold, are not timed."""
    train(data[:_COLD_STEPS])
    watch = Stopwatch()
    with watch.lap():
        train(data[_COLD_STEPS:])
    return watch.laps[0]


def _host_and_batches() -> tuple[nn.Module, list[Batch]]:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    data = [HOST.batch(HOST.batch_size, generator) for _ in range(_COLD_STEPS + _LAP_STEPS)]
    return HOST.model(), data


# -- planting and removing -------------------------------------------------------------------------


def _surgery_rows(effort: Effort) -> list[Row]:
    """Plant and remove beside a run that has the seed all along; each counts to its step."""
    cycles = _CYCLES[effort]
    model, data = _host_and_batches()
    steady = _Grown(copy.deepcopy(model), _EACH_STEP, data[0])
    steady.plant()
    changing = _Grown(model, _EACH_STEP, data[0])
    control: list[Lap] = []
    planted: list[Lap] = []
    removed: list[Lap] = []
    differing = 0
    for cycle in range(cycles + 1):
        laps = _steps(steady, data)
        germination, seed = _step_after(changing.plant, changing, data[0])
        _steps(changing, data)
        cull, _ = _step_after(partial(changing.grower.carry_out, Cull(seed)), changing, data[1])
        changing.pass_boundary(data[2])
        differing += _differs_at_operations(changing, data[0])
        changing.pass_boundary(data[2])
        if cycle:  # the first is there to warm up
            control += laps
            planted.append(germination)
            removed.append(cull)
    return [
        *_operation_rows("germination", planted, control, MOST_WALL[effort]),
        *_operation_rows("cull", removed, control, MOST_WALL[effort]),
        judged(
            "operations after which an output differs",
            float(differing),
            "",
            Bar("at most", 0.0),
            note=f"of {2 * (cycles + 1)}, bitwise, in evaluation mode",
        ),
    ]


def _output(run: _Grown, batch: Batch) -> Tensor:
    run.model.eval()
    with torch.no_grad():
        output: Tensor = run.model(batch[0])
    run.model.train()
    return output


def _differs_at_operations(run: _Grown, batch: Batch) -> int:
    """Plant and remove once more, looking at the host's output in between, not at the clock."""
    outputs = [_output(run, batch)]
    seed = run.plant()
    outputs.append(_output(run, batch))
    run.grower.carry_out(Cull(seed))
    outputs.append(_output(run, batch))
    return sum(not torch.equal(outputs[0], other) for other in outputs[1:])


def _steps(run: _Grown, data: Sequence[Batch]) -> list[Lap]:
    watch = Stopwatch()
    for batch in data:
        with watch.lap():
            run.train([batch])
    return watch.laps[_COLD_STEPS:]


def _step_after(operation: Callable[[], Any], run: _Grown, batch: Batch) -> tuple[Lap, Any]:
    watch = Stopwatch()
    with watch.lap():
        done = operation()
        run.train([batch])
    return watch.laps[0], done


def _operation_rows(
    name: str, laps: Sequence[Lap], control: Sequence[Lap], most_wall: float
) -> list[Row]:
    median_s = float(np.median([lap.cpu_s for lap in control]))
    longest = max(lap.cpu_s for lap in laps) / median_s
    own = max(lap.cpu_s for lap in control) / median_s
    wall_s, control_s = (max(lap.wall_s for lap in each) for each in (laps, control))
    return [
        judged(
            f"longest step with a {name}, thread CPU time",
            longest,
            "medians",
            Bar("at most", MOST_CPU),
            note=f"{len(laps)} of them; a step is {1e3 * median_s:.1f} ms, the longest without "
            f"one {own:.2f} medians",
            doubt=f"a step without one takes {own:.1f} medians too" if own > MOST_CPU else "",
        ),
        judged(
            f"longest step with a {name}, wall-clock",
            1e3 * wall_s,
            "ms",
            Bar("at most", most_wall),
            baseline=1e3 * control_s,
            note=f"against the longest of {len(control)} steps without one",
        ),
    ]


# -- boundaries ------------------------------------------------------------------------------------


class _Timed(Grower):
    """A grower that keeps what each evaluation took, for the boundary's own time without it."""

    evaluation_s = 0.0

    def _evaluate(self, loader: Iterable[Any]) -> dict[str, Evaluation]:
        started = time.thread_time()
        try:
            return super()._evaluate(loader)
        finally:
            self.evaluation_s = time.thread_time() - started


def _boundary_rows(effort: Effort) -> list[Row]:
    """Let the heuristic grow a small host, with something to do at most boundaries."""
    count = _BOUNDARIES[effort]
    torch.manual_seed(0)
    model = ConvHost()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    grower = _Timed(
        model,
        optimizer,
        loss=nn.functional.cross_entropy,
        policy="heuristic",
        growth=_DECIDING,
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
            Bar("at most", MOST_P99_MS[effort]),
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


# -- mutants ---------------------------------------------------------------------------------------

_whole_germinate = Executor.germinate
_whole_cull = Executor.cull
_whole_advance = Executor.advance
BURNT_S = 1.0


def _burn(seconds: float) -> None:
    enough = time.thread_time() + seconds
    while time.thread_time() < enough:
        pass


def _touching(executor: Executor, *given: Any, **named: Any) -> Any:
    with torch.no_grad():
        for parameter in executor.branch.model.parameters():
            parameter.add_(1e-3)
    return _whole_germinate(executor, *given, **named)


def _in_the_way(name: str, seconds: float, whole: Callable[..., Any]) -> Callable[[], Any]:
    def slowed(*given: Any, **named: Any) -> Any:
        _burn(seconds)
        return whole(*given, **named)

    return lambda: replaced(f"esper_async.kasmina.executor.Executor.{name}", slowed)


BENCHMARK = Benchmark(
    name="growing-cost",
    question="what does a run pay while it grows?",
    measure=measure,
    mutants=(
        Mutant(
            "proves what it plants",
            "a germination computes for a second",
            _in_the_way("germinate", BURNT_S, _whole_germinate),
            fails=("longest step with a germination, *",),
        ),
        Mutant(
            "searches for what it removes",
            "a cull computes for a second",
            _in_the_way("cull", BURNT_S, _whole_cull),
            fails=("longest step with a cull, *",),
        ),
        Mutant(
            "touches the host",
            "a germination changes every weight of the host a little",
            lambda: replaced("esper_async.kasmina.executor.Executor.germinate", _touching),
            fails=("operations after which an output differs",),
        ),
        Mutant(
            "judges slowly",
            "advancing the seeds computes for 50 ms",
            _in_the_way("advance", 0.05, _whole_advance),
            fails=("boundary without validation, median", "boundary without validation, 99th *"),
        ),
    ),
)
