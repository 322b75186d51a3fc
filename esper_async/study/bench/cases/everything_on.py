"""What does a run pay in which everything is on, and no seed is planted? Against a loop by hand.

Everything: the bridge to a real Redis, the journal, a checkpoint at each boundary, and `heuristic`
over sixteen DORMANT sites with eight blueprints that may be planted there, which is asked at each
boundary before the one from which it plants. Whole runs take turns, so that a loop by hand has none
of the engine's threads beside it. An epoch is timed from its middle to the middle of the next: what
a boundary leaves to other threads, as the writing of a checkpoint, is done within it.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from anyio.from_thread import start_blocking_portal
from torch import Tensor, nn

from esper_async.kasmina.call import default_forward
from esper_async.kasmina.legal import MemoryStore
from esper_async.kasmina.sites import find_sites
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
from esper_async.study.bench.bus_load import KEY, running_server
from esper_async.study.bench.interleave import Lap, Rounds
from esper_async.study.bench.slowing import burning_cpu
from esper_async.study.bench.timed_hosts import (
    CONV,
    RATE,
    TRANSFORMER,
    Batch,
    LoopByHand,
    TimedHost,
)
from esper_async.tamiyo.policies.heuristic import HeuristicPolicy
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.grower import Grower
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.process import Teller
from esper_async.tolaria.task import Task

MOST_RATIO, MOST_IN_SHORT = 1.03, 1.25
"""The short form has too few rounds for the bar itself: it finds what is far off."""
LEAST_MS = 3.0
SITES = 16
STEPS = {CONV: 47, TRANSFORMER: 64}
"""Between two boundaries: an epoch of the built-in tasks `mnist5k` and `shakespeare`."""
_WARM_EPOCHS = 2
_DRAIN_S = 10.0
_NEVER = 10**9
_BLUEPRINTS = ["BP002", "BP003", "BP009", "BP013", "BP014", "BP015", "BP020", "BP023"]
_AFTER_STEP = "esper_async.tolaria.grower.Grower.after_step"
_DECIDE = "esper_async.tamiyo.policies.heuristic.HeuristicPolicy.decide"


@dataclass(frozen=True, slots=True)
class _Extent:
    """How much a form measures: hosts, rounds, timed epochs of each run; and the ratio's bar."""

    hosts: Sequence[TimedHost]
    rounds: int
    epochs: int
    most: float

    @property
    def whole(self) -> int:
        """Epochs of a run, the first and the half ones at the ends included."""
        return _WARM_EPOCHS + self.epochs + 1


_EXTENTS = {
    Effort.SHORT: _Extent((CONV,), rounds=3, epochs=3, most=MOST_IN_SHORT),
    Effort.FULL: _Extent((CONV, TRANSFORMER), rounds=10, epochs=6, most=MOST_RATIO),
}


def measure(effort: Effort) -> list[Row]:
    """Train by hand, by the engine, by hand and so on, on one torch thread."""
    threads, extent = torch.get_num_threads(), _EXTENTS[effort]
    torch.set_num_threads(1)
    try:
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(running_server()) as server,
        ):
            return [row for host in extent.hosts for row in _rows(host, extent, server.url)]
    finally:
        torch.set_num_threads(threads)


class _Epochs:
    """The batches of an epoch, again and again; the time in the middle of each is noted."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches
        self._notes: list[tuple[float, float, float]] = []

    def __iter__(self) -> Iterator[Batch]:
        half = len(self._batches) // 2
        yield from self._batches[:half]
        self._notes.append((time.thread_time(), time.perf_counter(), time.process_time()))
        yield from self._batches[half:]

    def laps(self) -> list[tuple[Lap, float]]:
        """Return each timed epoch: this thread's lap, and the CPU time of all threads."""
        notes = self._notes[_WARM_EPOCHS:]
        return [(Lap(b[0] - a[0], b[1] - a[1]), b[2] - a[2]) for a, b in pairwise(notes)]


class _Run:
    """One host with its batches, trained in two ways from the same weights."""

    def __init__(self, host: TimedHost, extent: _Extent, url: str) -> None:
        torch.manual_seed(0)
        self.extent = extent
        self._host = host
        self._url = url
        self._model = host.model()
        generator = torch.Generator().manual_seed(1)
        self._batches = [host.batch(host.batch_size, generator) for _ in range(STEPS[host])]
        self._validation = [host.batch(4 * host.batch_size, generator) for _ in range(2)]
        self._certificates = MemoryStore()
        self._runs = 0

    def by_hand(self) -> tuple[list[tuple[Lap, float]], nn.Module]:
        """Train by hand."""
        loop, epochs = LoopByHand(self._host, self._model, epochs=self.extent.whole), self._epochs()
        for _ in range(self.extent.whole):
            loop.train(epochs)
            loop.validate(self._validation)
            loop.end_epoch()
        return epochs.laps(), loop.model

    def by_the_engine(self) -> tuple[list[tuple[Lap, float]], nn.Module]:
        """Train with everything on.

        Raises:
            RuntimeError: it was not what is to be timed: a seed was planted, or too few sites.
        """
        self._runs += 1
        epochs, name = self._epochs(), f"run{self._runs}"
        task = self._task(epochs)
        options = RunOptions(
            epochs=self.extent.whole,
            policy=HeuristicPolicy.name,
            threads=1,
            sites=self._sites(task.model),
        )
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            bridge = Bridge(self._url, folder / "spool", Signer(KEY), f"tolaria/{name}")
            bridge.start()
            engine = Engine(
                task,
                options,
                run_id=name,
                folder=folder,
                listener=Teller(bridge, name, loss_unit="nats").tell,
                certificates=self._certificates,
                blueprints=_BLUEPRINTS,
                policy=HeuristicPolicy(seed=0, start_boundary=_NEVER),
            )
            try:
                engine.run()
            finally:
                engine.close()
                report = bridge.close(_DRAIN_S)
        executor = engine.grower.executor
        if executor is None or executor.planted or len(executor.sites) != SITES or report.error:
            raise RuntimeError(f"{SITES} sites and no seed were to be timed; {report.error}")
        return epochs.laps(), task.model

    def _epochs(self) -> _Epochs:
        return _Epochs(self._batches)

    def _task(self, epochs: _Epochs) -> Task:
        loop = LoopByHand(self._host, self._model, epochs=1)  # whose model is a copy
        return Task(
            model=loop.model,
            train_loader=epochs,
            validation_loader=self._validation,
            loss=self._host.loss,
            optimizer=partial(torch.optim.Adam, lr=RATE),
        )

    def _sites(self, model: nn.Module) -> dict[str, str]:
        """Return sixteen sites; where the host has fewer, several have one and the same place."""
        found = find_sites(model, default_forward, self._batches[0])
        return {f"site{number}": found[number % len(found)].path for number in range(SITES)}

    def outputs(self, model: nn.Module) -> Tensor:
        """Return what a trained model answers."""
        model.eval()
        with torch.no_grad():
            answers: Tensor = model(self._batches[0][0])
        return answers


def _rows(host: TimedHost, extent: _Extent, url: str) -> list[Row]:
    run = _Run(host, extent, url)
    own, everybody = Rounds(), Rounds()
    before, by_hand = run.by_hand()
    differing = 0
    differ = f"{host.name}: tensors and outputs that differ from the loop's"
    whole = all(map(wants, [differ, *(f"{host.name}: step, {name}" for _, name in _CLOCKS)]))
    for _ in range(extent.rounds if whole else 1):  # a mutant shows at once
        middle, grown = run.by_the_engine()
        after, _ = run.by_hand()
        for first, second, third in zip(before, middle, after, strict=True):
            own.add(first[0], second[0], third[0])
            everybody.add(*(Lap(each[1], each[1]) for each in (first, second, third)))
        differing += _differing(run, by_hand, grown)
        before = after
    return [
        *(_step_row(host, own, *clock, most=extent.most) for clock in _CLOCKS),
        _share_row(host, everybody),
        judged(
            differ,
            float(differing),
            "",
            Bar("at most", 0.0),
            note="at the end of the runs, bitwise",
        ),
    ]


_CLOCKS = (("cpu_s", "thread CPU time"), ("wall_s", "wall-clock"))


def _step_row(host: TimedHost, rounds: Rounds, clock: str, name: str, *, most: float) -> Row:
    compared = rounds.compare(clock)
    by_hand_ms = 1e3 * compared.baseline_s / STEPS[host]
    small = (
        f"a step by hand takes {by_hand_ms:.2f} ms; the bar is for one of {LEAST_MS:g} ms"
        if by_hand_ms < LEAST_MS
        else ""
    )
    return judged(
        f"{host.name}: step, {name}",
        1e3 * compared.value_s / STEPS[host],
        "ms",
        Bar("at most", most),
        baseline=by_hand_ms,
        ratio=compared.ratio.value,
        interval=(compared.ratio.low, compared.ratio.high),
        note=f"a boundary each {STEPS[host]} steps; A/A control {compared.control.value:.4f}",
        doubt=small or compared.doubt(most),
    )


def _share_row(host: TimedHost, rounds: Rounds) -> Row:
    ratio = rounds.compare("cpu_s").ratio
    return shown(
        f"{host.name}: CPU time of all threads, over that by hand",
        ratio.value,
        "",
        note=f"{ratio.low:.3f} … {ratio.high:.3f}; the bridge and the writer of checkpoints count",
    )


def _differing(run: _Run, one: nn.Module, other: nn.Module) -> int:
    mine, theirs = one.state_dict(), other.state_dict()
    same_outputs = torch.equal(run.outputs(one), run.outputs(other))
    return sum(not torch.equal(mine[name], theirs[name]) for name in mine) + (not same_outputs)


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
            "the policy, on its own thread, takes a second at each boundary",
            lambda: burning_cpu(_DECIDE, 1.0),
            fails=("*: step, wall-clock",),
        ),
        Mutant(
            "touches a weight",
            "a billionth is added to the host's first parameter after every step",
            lambda: replaced(_AFTER_STEP, _with_a_touch),
            fails=("*: tensors and outputs that differ from the loop's",),
        ),
    ),
)
