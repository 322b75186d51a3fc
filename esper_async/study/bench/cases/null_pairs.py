"""Is a seed that does nothing kept? Pairs that differ in the order of their batches alone.

The planted kernel is the identity in a convex blend: the run with it is bitwise the run without.
Its twin is trained on the same batches in another order, so that what the last gate sees is the
noise of training and nothing else. The twin draws without replacement, blocks of the past few
batches in a random order: a twin that samples with replacement forgets more, and loses by it.
"""

import math
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper_async.kasmina import executor
from esper_async.kasmina.call import Call, Forward
from esper_async.kasmina.evaluation import Variant
from esper_async.kasmina.gates import GateResult, system_impact
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.stage import Stage
from esper_async.kasmina.trial import Trial
from esper_async.study.bench.all_runs import run_all
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
from esper_async.tasks.mnist1d import make_task
from esper_async.tolaria.grower import Grower
from esper_async.tolaria.lr import LRController
from esper_async.tolaria.schedule import make_scheduler
from esper_async.tolaria.task import Task
from esper_async.tolaria.training import make_train_step

IDENTITY = "BP001"
RATES = (1e-2, 2e-2)
BLOCK = 8
"""Batches whose order is drawn anew; 32 of them make an epoch."""
EPOCHS = 80
MOST_ACCEPTED = 0.05
SEEDS = range(8)
_RATES = {Effort.SHORT: RATES[-1:], Effort.FULL: RATES}
_SEEDS = {Effort.SHORT: range(2), Effort.FULL: SEEDS}
_GROWTH = GrowthOptions(
    dwell_steps=1, ramp_boundaries=1, max_seeds=100, embargo_boundaries=1, drill=True
)
"""Nothing is to be learned or ramped: all else is as in any run."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: what varies its start and its batches, and its learning rate."""

    seed: int
    rate: float
    epochs: int = EPOCHS


@dataclass(slots=True)
class Trials:
    """What became of the null seeds of some runs; benefits in nats, one a verdict of G4."""

    ended: int = 0
    accepted: int = 0
    benefits: list[float] = field(default_factory=list)
    half_widths: list[float] = field(default_factory=list)

    @property
    def spread(self) -> float:
        """Standard deviation of the benefit; not a number where it was not measured."""
        return stdev(self.benefits) if len(self.benefits) > 1 else math.nan


def pooled(runs: Iterable[Trials]) -> Trials:
    """Return the trials of all runs as those of one."""
    every = list(runs)
    return Trials(
        sum(each.ended for each in every),
        sum(each.accepted for each in every),
        [benefit for each in every for benefit in each.benefits],
        [width for each in every for width in each.half_widths],
    )


def measure(effort: Effort) -> list[Row]:
    """Run null pairs at every rate; count what is accepted and show the spread."""
    rates = _RATES[effort]
    plans = [Plan(seed, rate) for rate in rates for seed in _SEEDS[effort]]
    ran = run_all(plans, run, effort)
    rows = []
    for rate in rates:
        found = pooled(trials for plan, trials in ran.items() if plan.rate == rate)
        if effort is Effort.FULL:
            rows.append(_accepted(f"rate {rate:g}", found))
        rows.append(_spread(f"rate {rate:g}", found))
    return [*rows, _accepted("all rates", pooled(ran.values()))]


def _accepted(which: str, found: Trials) -> Row:
    return judged(
        f"null pairs, {which}: accepted",
        found.accepted / found.ended,
        "of trials",
        Bar("at most", MOST_ACCEPTED),
        note=f"{found.accepted} of {found.ended}, up to {_GROWTH.max_windows} verdicts each",
    )


def _spread(which: str, found: Trials) -> Row:
    return shown(
        f"null pairs, {which}: spread of the benefit",
        found.spread,
        "nats",
        note=f"standard deviation of {len(found.benefits)} verdicts, mean "
        f"{fmean(found.benefits):+.4f}; half the interval over samples is "
        f"{fmean(found.half_widths):.4f}",
    )


class Shuffled:
    """Trains the host on the batches as they come, and twins on them in another order."""

    def __init__(self, task: Task, seed: int) -> None:
        self._host = task.model
        self._step = make_train_step(task)
        self._draw = random.Random(seed)  # noqa: S311 - an order that repeats, not a secret
        self._block: list[Any] = []
        self._queue: list[Any] = []

    def meet(self, batch: Any) -> None:
        """Take in the run's next batch; a full block is queued in a random order."""
        self._block.append(batch)
        if len(self._block) == BLOCK:
            self._queue = self._draw.sample(self._block, BLOCK)
            self._block = []

    def __call__(self, model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
        """Train on `batch`, or a twin on the next one of its own order."""
        if model is not self._host and self._queue:
            batch = self._queue.pop()
        return self._step(model, optimizer, batch)


def run(plan: Plan) -> Trials:
    """Train once, with one null seed after the other, and return what became of them."""
    task = make_task(seed=plan.seed, learning_rate=plan.rate, schedule="constant")
    optimizer = task.make_optimizer(task.model.parameters())
    train = Shuffled(task, plan.seed)
    rates = LRController(
        optimizer,
        warmup_steps=_GROWTH.warmup_steps,
        scheduler=make_scheduler(task, optimizer, boundaries=plan.epochs, steps=None),
    )
    grower = Grower(
        task.model,
        optimizer,
        state_dir=None,
        loss=task.loss,
        policy="random",
        seed=plan.seed,
        train_step=train,
        growth=_GROWTH,
        boundaries=plan.epochs,
        rates=rates,
        blueprints=[IDENTITY],
    )
    task.model.train()
    with _one_thread():
        for _ in range(plan.epochs):
            for batch in task.train_loader:
                train.meet(batch)
                with grower.step(batch):
                    train(task.model, optimizer, batch)
            grower.boundary(task.validation_loader)
    return _count(grower)


def _count(grower: Grower) -> Trials:
    found = Trials()
    assert grower.executor is not None
    for seed in grower.executor.seeds.values():
        verdicts = [gate for gate in seed.gates if gate.name == "G4"]
        if not (seed.ended or seed.stage is Stage.FOSSILIZED) or not verdicts:
            continue
        found.ended += 1
        found.accepted += seed.stage is Stage.FOSSILIZED
        for gate in verdicts:
            mean, low = gate.numbers.get("mean"), gate.numbers.get("low")
            if mean is not None and low is not None:  # else it was not measured
                found.benefits.append(mean)
                found.half_widths.append(mean - low)
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread, so that the result does not hang on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _by_samples_alone(
    trial: Trial, options: GrowthOptions, *, scale: float, boundary: int
) -> GateResult:
    gate = system_impact(trial.seed.benefit_vs_twin, margin=0.0, boundary=boundary)
    trial.seed.gates.append(gate)
    return gate


_whole_variants = Trial.variants


def _raw_weights(trial: Trial, forward: Forward) -> dict[str, Variant]:
    found = _whole_variants(trial, forward)
    if "averaged" in found:
        found["averaged"] = Call(trial.branch.model, forward)
    if "twin" in found:
        found["twin"] = Call(trial.twin.model, forward)
    return found


@contextmanager
def _raw_and_by_samples() -> Iterator[None]:
    with (
        replaced("esper_async.kasmina.trial.Trial.variants", _raw_weights),
        replaced(f"{executor.__name__}.benefit_verdict", _by_samples_alone),
    ):
        yield


BENCHMARK = Benchmark(
    name="null-pairs",
    question="is a seed that does nothing kept by the luck of its batches?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "raw weights, interval over samples",
            "branches are judged as they stand, and the noise of training is left out",
            _raw_and_by_samples,
            fails=("null pairs, all rates: accepted",),
        ),
        Mutant(
            "no margin",
            "averaged weights, but any lower bound above 0 will do",
            lambda: replaced(f"{executor.__name__}.benefit_verdict", _by_samples_alone),
            fails=("null pairs, all rates: accepted",),
        ),
    ),
)
