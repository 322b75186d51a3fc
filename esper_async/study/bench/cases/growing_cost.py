"""What does a run pay while it grows? A seed in the shadow, and planting and removing one.

Everything is timed in the thread that trains. A seed in the shadow is held against a loop by hand.
So are planting and removing: the step that an operation falls into against the median of a step by
hand. Of the small kernel that step has its first shadow pass, too; of the large one, whose shadow
pass alone takes several steps' time, the full form shows it.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

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
    wants,
)
from esper_async.study.bench.interleave import Comparison, Lap, Stopwatch, interleaved
from esper_async.study.bench.planting import PlantOnce
from esper_async.study.bench.slowing import burning_cpu
from esper_async.study.bench.timed_hosts import CONV, Batch, LoopByHand
from esper_async.tamiyo.command import Cull, Germinate
from esper_async.tolaria.grower import Grower

MOST_SHADOW_RATIO = {Effort.SHORT: 2.0, Effort.FULL: 1.45}
"""The bar is the full form's; the short form has too few rounds to tell what is near it."""
MOST_CPU = 3.0
MOST_WALL = {Effort.SHORT: 3.0, Effort.FULL: 1.5}
"""In wall-clock time; the short form has too few steps to know how long the longest may be."""
KERNEL, SMALL_KERNEL = "BP009", "BP003"
"""An inverted bottleneck of 28 thousand parameters, and one that has a scale a channel."""
_SHADOW = "step with a seed in TRAINING, {}, thread CPU time"
_LONGEST, _DIFFERING = "longest step with a {} of {}", "operations after which an output differs"
_SURGERY = (_LONGEST.format("germination", ""), _LONGEST.format("cull", ""), _DIFFERING)
_NO_SHADOW, _WITH_SHADOW = (
    f"{KERNEL}, without a shadow pass",
    f"{SMALL_KERNEL}, shadow pass included",
)
_ROUNDS = {Effort.SHORT: 5, Effort.FULL: 40}
_CYCLES = {Effort.SHORT: 5, Effort.FULL: 60}
_SHADOWED = GrowthOptions(dwell_steps=10**9, parameter_budget=1e3, shadow_every=2)
_EACH_STEP = GrowthOptions(
    dwell_steps=10**9, parameter_budget=1e3, shadow_every=1, embargo_boundaries=0
)
_NO_STEP = replace(_EACH_STEP, shadow_every=10**9)


def measure(effort: Effort) -> list[Row]:
    """Time the shadow, then the operations, on one torch thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = _shadow_rows(effort) if wants(_SHADOW.format(SMALL_KERNEL)) else []
        return rows + (_surgery_rows(effort) if wants(*_SURGERY) else [])
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
            loss=CONV.loss,
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

    def plant(self, kernel: str) -> str:
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
                loss = CONV.loss(self.model(batch[0]), batch[1])
                loss.backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()


# -- a seed in the shadow --------------------------------------------------------------------------


def _shadow_rows(effort: Effort) -> list[Row]:
    """Judge the small kernel; the full form shows the large one, too."""
    small = _shadowed(SMALL_KERNEL, _ROUNDS[effort])
    most = MOST_SHADOW_RATIO[effort]
    rows = [
        judged(
            _SHADOW.format(SMALL_KERNEL),
            1e3 * small.value_s / CONV.lap_steps,
            "ms",
            Bar("at most", most),
            baseline=1e3 * small.baseline_s / CONV.lap_steps,
            ratio=small.ratio.value,
            interval=(small.ratio.low, small.ratio.high),
            note="at the first site, shadow every 2nd batch; "
            f"A/A control {small.control.value:.4f}",
            doubt=small.doubt(most),
        ),
    ]
    if effort is Effort.FULL:
        large = _shadowed(KERNEL, _ROUNDS[effort])
        rows.append(
            shown(
                _SHADOW.format(KERNEL),
                1e3 * large.value_s / CONV.lap_steps,
                "ms",
                note=f"{large.ratio.value:.2f} times the step by hand, of {large.ratio.low:.2f} "
                f"to {large.ratio.high:.2f}",
            )
        )
    return rows


def _shadowed(kernel: str, count: int) -> Comparison:
    model, data = _host_and_batches()
    by_hand = LoopByHand(CONV, model, epochs=1)
    grown = _Grown(copy.deepcopy(model), _SHADOWED, data[0])
    grown.plant(kernel)
    timed = interleaved(
        lambda: by_hand.train(data), lambda: grown.train(data), rounds=count, warmup=1, settle=True
    )
    return timed.compare("cpu_s")


def _host_and_batches() -> tuple[nn.Module, list[Batch]]:
    torch.manual_seed(0)
    return CONV.model(), CONV.lap(torch.Generator().manual_seed(1))


# -- planting and removing -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Operated:
    """The steps into which operations fell, steps by hand beside them, and outputs that differ."""

    planted: list[Lap]
    removed: list[Lap]
    by_hand: list[Lap]
    differing: int


def _surgery_rows(effort: Effort) -> list[Row]:
    """Plant and remove beside a loop by hand; each counts to the step that it falls into."""
    cycles = _CYCLES[effort]
    bare = _operated(KERNEL, _NO_STEP, cycles)
    shadowed = _operated(SMALL_KERNEL, _EACH_STEP, cycles)
    germination = _LONGEST.format("germination", _NO_SHADOW)
    with_shadow = _LONGEST.format("germination", _WITH_SHADOW)
    cull = _LONGEST.format("cull", SMALL_KERNEL)  # what is culled learns no more in that step
    rows = [
        _cpu_row(germination, bare.planted, bare.by_hand),
        _wall_row(germination, bare.planted, bare.by_hand, MOST_WALL[effort]),
        _cpu_row(with_shadow, shadowed.planted, shadowed.by_hand),
        _cpu_row(cull, shadowed.removed, shadowed.by_hand),
        _wall_row(cull, shadowed.removed, shadowed.by_hand, MOST_WALL[effort]),
        judged(
            _DIFFERING,
            float(bare.differing + shadowed.differing),
            "",
            Bar("at most", 0.0),
            note=f"of {4 * (cycles + 1)}, bitwise, in evaluation mode",
        ),
    ]
    if effort is Effort.FULL:
        large = _operated(KERNEL, _EACH_STEP, cycles)
        median_s = _median_cpu_s(large.by_hand)
        rows.append(
            shown(
                _LONGEST.format("germination", f"{KERNEL}, shadow pass included"),
                max(lap.cpu_s for lap in large.planted) / median_s,
                "medians",
                note="its shadow passes are figured above",
            )
        )
    return rows


def _operated(kernel: str, options: GrowthOptions, cycles: int) -> _Operated:
    model, data = _host_and_batches()
    by_hand = LoopByHand(CONV, copy.deepcopy(model), epochs=1)
    changing = _Grown(model, options, data[0])
    control: list[Lap] = []
    planted: list[Lap] = []
    removed: list[Lap] = []
    differing = 0
    for cycle in range(cycles + 1):
        laps = _steps(by_hand, data)
        changing.train(data[:1])  # or its step would find the caches cold
        germination, seed = _step_after(partial(changing.plant, kernel), changing, data[0])
        changing.train(data)
        cull, _ = _step_after(partial(changing.grower.carry_out, Cull(seed)), changing, data[1])
        changing.pass_boundary(data[2])
        differing += _differs_at_operations(changing, kernel, data[0])
        changing.pass_boundary(data[2])
        if cycle:  # the first is there to warm up
            control += laps
            planted.append(germination)
            removed.append(cull)
    return _Operated(planted, removed, control, differing)


def _output(run: _Grown, batch: Batch) -> Tensor:
    run.model.eval()
    with torch.no_grad():
        output: Tensor = run.model(batch[0])
    run.model.train()
    return output


def _differs_at_operations(run: _Grown, kernel: str, batch: Batch) -> int:
    """Plant and remove once more, looking at the host's output in between, not at the clock."""
    outputs = [_output(run, batch)]
    seed = run.plant(kernel)
    outputs.append(_output(run, batch))
    run.grower.carry_out(Cull(seed))
    outputs.append(_output(run, batch))
    return sum(not torch.equal(outputs[0], other) for other in outputs[1:])


def _steps(by_hand: LoopByHand, data: Sequence[Batch]) -> list[Lap]:
    watch = Stopwatch()
    for batch in data:
        with watch.lap():
            by_hand.train([batch])
    return watch.laps[1:]  # the first finds the caches cold


def _step_after(operation: Callable[[], Any], run: _Grown, batch: Batch) -> tuple[Lap, Any]:
    watch = Stopwatch()
    with watch.lap():
        done = operation()
        run.train([batch])
    return watch.laps[0], done


def _cpu_row(figure: str, laps: Sequence[Lap], control: Sequence[Lap]) -> Row:
    median_s = _median_cpu_s(control)
    own = max(lap.cpu_s for lap in control) / median_s
    return judged(
        f"{figure}, thread CPU time",
        max(lap.cpu_s for lap in laps) / median_s,
        "medians",
        Bar("at most", MOST_CPU),
        note=f"{len(laps)} of them; a step by hand is {1e3 * median_s:.1f} ms, the longest "
        f"{own:.2f} medians",
        doubt=f"a step by hand takes {own:.1f} medians too" if own > MOST_CPU else "",
    )


def _wall_row(figure: str, laps: Sequence[Lap], control: Sequence[Lap], most: float) -> Row:
    wall_s, control_s = (max(lap.wall_s for lap in each) for each in (laps, control))
    return judged(
        f"{figure}, wall-clock",
        1e3 * wall_s,
        "ms",
        Bar("at most", most),
        baseline=1e3 * control_s,
        note=f"against the longest of {len(control)} steps by hand",
    )


def _median_cpu_s(laps: Sequence[Lap]) -> float:
    return float(np.median([lap.cpu_s for lap in laps]))


# -- mutants ---------------------------------------------------------------------------------------

_EXECUTOR = "esper_async.kasmina.executor.Executor"
_whole_after_step = Executor.after_step
_whole_germinate = Executor.germinate
BURNT_S = 0.5


def _shadows_again(executor: Executor, batch: Any) -> None:
    for _ in range(5):
        _whole_after_step(executor, batch)


def _touching(executor: Executor, *given: Any, **named: Any) -> Any:
    with torch.no_grad():
        for parameter in executor.branch.model.parameters():
            parameter.add_(1e-3)
    return _whole_germinate(executor, *given, **named)


BENCHMARK = Benchmark(
    name="growing-cost",
    question="what does a run pay while it grows?",
    measure=measure,
    mutants=(
        Mutant(
            "five shadow passes",
            "a seed is trained five times on every batch that it is trained on",
            lambda: replaced(f"{_EXECUTOR}.after_step", _shadows_again),
            fails=("step with a seed in TRAINING, *",),
        ),
        Mutant(
            "proves what it plants",
            "a germination computes for half a second",
            lambda: burning_cpu(f"{_EXECUTOR}.germinate", BURNT_S),
            fails=("longest step with a germination of *",),
        ),
        Mutant(
            "searches for what it removes",
            "a cull computes for half a second",
            lambda: burning_cpu(f"{_EXECUTOR}.cull", BURNT_S),
            fails=("longest step with a cull of *",),
        ),
        Mutant(
            "touches the host",
            "a germination changes every weight of the host a little",
            lambda: replaced(f"{_EXECUTOR}.germinate", _touching),
            fails=("operations after which an output differs",),
        ),
    ),
)
