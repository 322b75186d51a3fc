"""What is a tournament of eight, and is its host left alone? Two built-in runs, trained by hand.

Task, epochs and options of `config/runs/digits.toml`, the run that a new user sees, and of
`mnist1d.toml`, the one of the `growth` benchmark; the candidates are those that `heuristic` draws
there first, once eight at one site and once eight over all of them. The host is held against one
that grows nothing, after every step for as long as candidates train. Shares are of
multiply-accumulates, counted.

The short form is the second run on an eighth of its samples with an eighth of the dwell: there are
as many boundaries, and an eighth of the shadow passes to an eighth of the host's steps.
"""

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper_async.kasmina import batched_shadow
from esper_async.kasmina.executor import Executor
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Candidate, Seed
from esper_async.kasmina.stage import Stage
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
from esper_async.study.bench.planting import PlantOnce
from esper_async.tamiyo.policies.sampled import START_BOUNDARY
from esper_async.tolaria.grower import Grower
from esper_async.tolaria.lr import LRController
from esper_async.tolaria.run_file import load_run
from esper_async.tolaria.schedule import make_scheduler
from esper_async.tolaria.task_source import load_task
from esper_async.tolaria.training import make_train_step

MOST_SHARE = 0.12
SHORT_SHARE = {"one site": 0.85, "all sites": 0.6}
"""What is there: the bar is the full form's, which misses it."""
MOST_APART = 0.01
"""Of a kernel trained in one pass with others, from itself trained alone, relative to its size."""
_FIGURES = (
    "{}: steps after which the host differs",
    "{}: share of shadow passes in the run's compute",
    "{}: batched kernels from those trained one by one",
)
ShadowMode = Literal["sequential", "batched"]


def _at(site: str, *blueprints: str) -> tuple[Candidate, ...]:
    return tuple(Candidate(site, blueprint) for blueprint in blueprints)


TOURNAMENTS = {
    "digits": {
        "one site": _at(
            "stem.1", "BP018", "BP034", "BP017", "BP022", "BP015", "BP029", "BP020", "BP021"
        ),
        "all sites": _at("stem.1", "BP018", "BP034", "BP017", "BP022")
        + _at("pool", "BP021", "BP031", "BP023", "BP034"),
    },
    "mnist1d": {
        "one site": _at(
            "stem.1", "BP015", "BP032", "BP028", "BP009", "BP023", "BP013", "BP021", "BP014"
        ),
        "all sites": _at("stem.1", "BP015", "BP032", "BP028", "BP009")
        + _at("pool", "BP010", "BP031", "BP032", "BP028"),
    },
}
_SAMPLES = {Effort.SHORT: {"train_size": 400, "validation_size": 100}, Effort.FULL: {}}
_DWELL_STEPS = {Effort.SHORT: 25, Effort.FULL: GrowthOptions().dwell_steps}


@dataclass(slots=True)
class _Trained:
    """What was seen of a run.

    Attributes:
        host: a digest of weights, optimizer state and loss after each step, as long as candidates
            train.
        boundaries: after how many no candidate trained any more.
        kernels: each candidate's weights when it had trained.
        contributions: what each was measured to contribute, in nats.
        kept: the blueprint that became part of the network, if one did.
        macs: multiply-accumulates by what they were spent on.
        shadow_s, all_s: CPU time of the training thread, in shadow passes and in all.
    """

    host: list[bytes] = field(default_factory=list)
    boundaries: int = 0
    kernels: list[Tensor] = field(default_factory=list)
    contributions: list[float] = field(default_factory=list)
    kept: str = "nothing"
    macs: dict[str, float] = field(default_factory=dict)
    shadow_s: float = 0.0
    all_s: float = 0.0

    @property
    def share(self) -> float:
        """The shadow passes' share of all multiply-accumulates."""
        return self.macs["shadow"] / sum(self.macs.values())


def measure(effort: Effort) -> list[Row]:
    """Hold the tournaments of one run, or of both, on one torch thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        names = ("mnist1d",) if effort is Effort.SHORT else tuple(TOURNAMENTS)
        return [row for name in names for row in _rows(name, effort)]
    finally:
        torch.set_num_threads(threads)


def _rows(name: str, effort: Effort) -> list[Row]:
    rows: list[Row] = []
    for place, candidates in TOURNAMENTS[name].items():
        what = f"{name}, {place}"
        untouched, share, agreement = (figure.format(what) for figure in _FIGURES)
        one_by_one = _Run(name, effort, candidates).train(to_its_end=wants(share))
        if wants(share):
            most = MOST_SHARE if effort is Effort.FULL else SHORT_SHARE[place]
            rows.append(_share_row(share, one_by_one, most))
        if not wants(untouched, agreement):
            continue
        batched = _Run(name, effort, candidates, "batched").train(to_its_end=False)
        rows.append(_agreement_row(agreement, one_by_one, batched))
        rows.append(
            shown(
                f"{what}: thread CPU time in shadow passes",
                100 * one_by_one.shadow_s / one_by_one.all_s,
                "%",
                note=f"of {one_by_one.all_s:.1f} s in all; batched they take "
                f"{batched.shadow_s / one_by_one.shadow_s:.2f} times as long as one by one",
            )
        )
        if wants(untouched):
            alone = _Run(name, effort).train(boundaries=one_by_one.boundaries)
            least = _DWELL_STEPS[effort]
            rows.append(_untouched_row(untouched, alone, one_by_one, batched, least))
    return rows


def _untouched_row(
    figure: str, alone: _Trained, one_by_one: _Trained, batched: _Trained, least: int
) -> Row:
    """Count steps after which the host differs; too few of them show nothing."""
    differing = sum(
        mine != own
        for each in (one_by_one, batched)
        for mine, own in zip(each.host, alone.host, strict=True)
    )
    compared = len(alone.host)
    return judged(
        figure,
        float(differing),
        "steps",
        Bar("at most", 0.0),
        note=f"of {compared} with candidates one by one and as many batched; bitwise: weights, "
        "optimizer state, loss",
        doubt="" if compared >= least else f"only {compared} steps were compared",
    )


def _share_row(figure: str, trained: _Trained, most: float) -> Row:
    spent = {name: value / 1e9 for name, value in trained.macs.items()}
    return judged(
        figure,
        trained.share,
        "",
        Bar("at most", most),
        note=f"{spent['shadow']:.2f} GMAC of {sum(spent.values()):.2f}, of which "
        f"{spent['twin']:.2f} are a twin's; kept: {trained.kept}",
    )


def _agreement_row(figure: str, one_by_one: _Trained, batched: _Trained) -> Row:
    pairs = list(zip(one_by_one.kernels, batched.kernels, strict=True))
    apart = [float((one - other).norm() / one.norm()) for one, other in pairs]
    contributions = zip(one_by_one.contributions, batched.contributions, strict=True)
    nats = max(abs(one - other) for one, other in contributions)
    return judged(
        figure,
        max(apart),
        "of their size",
        Bar("at most", MOST_APART),
        note=f"the farthest of {len(apart)}; their contributions differ by {nats:.2g} nats at most",
    )


# -- a run -----------------------------------------------------------------------------------------


class _Run:
    """One of the shipped runs, by a plain loop, or a smaller one for the short form."""

    def __init__(
        self,
        name: str,
        effort: Effort,
        candidates: tuple[Candidate, ...] = (),
        mode: ShadowMode = "sequential",
    ) -> None:
        config = load_run(name).model_dump()["run"]
        self._epochs: int = config["epochs"]
        sizes = _SAMPLES[effort]
        self._task = load_task(config["task"], config["options"] | sizes, seed=config["seed"])
        # `heuristic` drew certified ones; a drill asks for no certificate, and so proves but one
        growth = GrowthOptions(dwell_steps=_DWELL_STEPS[effort], shadow_mode=mode, drill=True)
        make = self._task.optimizer
        assert make is not None
        self._optimizer = make(self._task.model.parameters())
        self._train_step = make_train_step(self._task)
        self._grower = Grower(
            self._task.model,
            self._optimizer,
            loss=self._task.loss,
            policy=PlantOnce(*candidates, boundary=START_BOUNDARY if candidates else -1),
            seed=config["seed"],
            train_step=self._train_step,
            growth=growth,
            boundaries=self._epochs,
            state_dir=None,
            blueprints=["BP003"],
            rates=LRController(
                self._optimizer,
                warmup_steps=growth.warmup_steps,
                scheduler=make_scheduler(
                    self._task, self._optimizer, boundaries=self._epochs, steps=None
                ),
            ),
            progress=lambda *_: None,
        )

    def train(self, *, to_its_end: bool = True, boundaries: int | None = None) -> _Trained:
        """Train to the end, or while candidates train, or for so many boundaries, and watch."""
        found = _Trained()
        started = time.thread_time()
        with _timed_shadows(found):
            for boundary in range(1, (boundaries or self._epochs) + 1):
                self._epoch(found, looking=boundaries is not None or not found.boundaries)
                self._look_at_kernels(found)
                self._grower.boundary(self._task.validation_loader)
                if found.kernels and not found.boundaries and not self._training():
                    found.boundaries = boundary
                if found.boundaries and not to_its_end:
                    break
        found.all_s = time.thread_time() - started
        executor = self._executor
        for seed in executor.seeds.values():
            measured = seed.clean_contribution
            found.contributions.append(math.nan if measured is None else measured.mean)
            if seed.stage is Stage.FOSSILIZED:
                found.kept = f"{seed.candidate.blueprint} at {seed.site.name}"
        bill = executor.compute
        found.macs = {"host": bill.host_macs, "shadow": bill.shadow_macs, "twin": bill.twin_macs}
        return found

    @property
    def _executor(self) -> Executor:
        assert self._grower.executor is not None
        return self._grower.executor

    def _training(self) -> list[Seed]:
        return self._executor.in_stage(Stage.TRAINING)

    def _epoch(self, found: _Trained, *, looking: bool) -> None:
        model, optimizer = self._task.model, self._optimizer
        for batch in self._task.train_loader:
            with self._grower.step(batch):
                loss = self._train_step(model, optimizer, batch)
            if looking:
                found.host.append(_digest(model, optimizer, loss))

    def _look_at_kernels(self, found: _Trained) -> None:
        trained = self._training()
        if trained:
            found.kernels = [
                torch.cat([p.detach().flatten() for p in seed.graft.parameters()])
                for seed in trained
            ]


def _digest(model: nn.Module, optimizer: Optimizer, loss: Tensor) -> bytes:
    """Return a digest of a host's weights, its optimizer's state, and what it has just computed."""
    digest = hashlib.sha256(loss.numpy().tobytes())
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
        for value in optimizer.state[parameter].values():
            digest.update(value.numpy().tobytes())
    return digest.digest()


@contextmanager
def _timed_shadows(found: _Trained) -> Iterator[None]:
    whole = Executor._shadow

    def timed(executor: Executor, batch: Any) -> None:
        started = time.thread_time()
        whole(executor, batch)
        found.shadow_s += time.thread_time() - started

    with replaced(f"{_EXECUTOR}._shadow", timed):
        yield


# -- mutants ---------------------------------------------------------------------------------------

_EXECUTOR = "esper_async.kasmina.executor.Executor"
_ONE_FOR_EACH = f"{batched_shadow.__name__}._OneForEach"
_whole_shadow = Executor._shadow


def _learns_five_times(executor: Executor, batch: Any) -> None:
    for _ in range(5):
        _whole_shadow(executor, batch)


def _touches(executor: Executor, batch: Any) -> None:
    _whole_shadow(executor, batch)
    with torch.no_grad():
        next(executor.branch.model.parameters()).mul_(1.0 + 1e-6)


def _neighbours(info: Any, in_dims: Any, index: Tensor, stack: Tensor) -> tuple[Tensor, int]:
    return (stack + stack.roll(1, dims=0)) / 2, 0


BENCHMARK = Benchmark(
    name="tournament",
    question="what does a tournament of eight cost, and is its host left alone?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "touches the host",
            "after a shadow pass a weight of the host is a millionth larger",
            lambda: replaced(f"{_EXECUTOR}._shadow", _touches),
            fails=(_FIGURES[0].format("*"),),
        ),
        Mutant(
            "five shadow passes",
            "candidates are trained five times on every batch that they are trained on",
            lambda: replaced(f"{_EXECUTOR}._shadow", _learns_five_times),
            fails=(_FIGURES[1].format("*"),),
        ),
        Mutant(
            "reads its neighbour's output",
            "in a batched pass half of what a candidate hands on is another one's",
            lambda: replaced(
                f"{batched_shadow.__name__}._OneForEach.vmap", staticmethod(_neighbours)
            ),
            fails=(_FIGURES[2].format("*"),),
        ),
    ),
)
