"""Built-in runs in which one tournament of eight is held: trained by hand, and watched.

Task, epochs and options of `config/runs/digits.toml`, the run that a new user sees, and of
`mnist1d.toml`, the one of the `growth` benchmark; the candidates are those that `heuristic` draws
there first, once eight at one site and once eight over all of them.
"""

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper_async.kasmina.executor import Executor
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Candidate, Seed
from esper_async.kasmina.stage import ON_TRIAL, Stage
from esper_async.study.bench.benchmark import Bar, Effort, Row, judged, replaced
from esper_async.study.bench.planting import PlantOnce
from esper_async.tamiyo.policies.sampled import START_BOUNDARY
from esper_async.tolaria.grower import Grower
from esper_async.tolaria.lr import LRController
from esper_async.tolaria.run_file import load_run
from esper_async.tolaria.schedule import make_scheduler
from esper_async.tolaria.task_source import load_task
from esper_async.tolaria.training import make_train_step

MOST_SHARE = 0.12
"""Of what candidates may cost, in all that a run computes."""


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
_GROWTH: dict[Effort, dict[str, Any]] = {
    Effort.SHORT: {"dwell_steps": 25, "first_round_steps": 8},
    Effort.FULL: {"dwell_steps": GrowthOptions().dwell_steps},
}


@dataclass(slots=True)
class Trained:
    """What was seen of a run.

    Attributes:
        host: a digest of weights, optimizer state and loss after each step, as long as candidates
            train.
        boundaries: after how many no candidate trained any more.
        kernels: each candidate's weights when it had trained.
        contributions: what each was measured to contribute, in nats, when it was last ranked.
        winner: the one that went on trial, by its place among the candidates; None if none did.
        kept: the blueprint that became part of the network, if one did.
        macs: multiply-accumulates by what they were spent on.
        shadow_s, all_s: CPU time of the training thread, in shadow passes and in all.
    """

    host: list[bytes] = field(default_factory=list)
    boundaries: int = 0
    kernels: list[Tensor] = field(default_factory=list)
    contributions: list[float] = field(default_factory=list)
    winner: int | None = None
    kept: str = "nothing"
    macs: dict[str, float] = field(default_factory=dict)
    shadow_s: float = 0.0
    all_s: float = 0.0

    @property
    def spent(self) -> float:
        """What candidates cost, in multiply-accumulates: to train them, and to measure them."""
        return self.macs["shadow"] + self.macs["judging"]

    @property
    def share(self) -> float:
        """What candidates cost, of all multiply-accumulates."""
        return self.spent / sum(self.macs.values())


class TournamentRun:
    """One of the shipped runs, by a plain loop, or a smaller one for the short form.

    Args:
        name: of the run file.
        effort: the short form has an eighth of the samples, and of the dwell.
        candidates: what is planted at once; a host that grows nothing if there are none.
        seed: another than the file's.
        growth_options: other options of growth than the defaults.
    """

    def __init__(
        self,
        name: str,
        effort: Effort,
        candidates: tuple[Candidate, ...] = (),
        *,
        seed: int | None = None,
        **growth_options: Any,
    ) -> None:
        config = load_run(name).model_dump()["run"]
        self._epochs: int = config["epochs"]
        seed = config["seed"] if seed is None else seed
        self._task = load_task(config["task"], config["options"] | _SAMPLES[effort], seed=seed)
        # `heuristic` drew certified ones; a drill asks for no certificate, and so proves but one
        growth = GrowthOptions(**(_GROWTH[effort] | growth_options), drill=True)
        make = self._task.optimizer
        assert make is not None
        self._optimizer = make(self._task.model.parameters())
        self._train_step = make_train_step(self._task)
        self._grower = Grower(
            self._task.model,
            self._optimizer,
            loss=self._task.loss,
            policy=PlantOnce(*candidates, boundary=START_BOUNDARY if candidates else -1),
            seed=seed,
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

    def train(self, *, to_its_end: bool = True, boundaries: int | None = None) -> Trained:
        """Train to the end, or while candidates train, or for so many boundaries, and watch."""
        found = Trained()
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
        for place, seed in enumerate(executor.seeds.values()):
            measured = seed.clean_contribution
            if seed.stage in (*ON_TRIAL, Stage.FOSSILIZED) or seed.dependence is not None:
                found.winner = place
            found.contributions.append(math.nan if measured is None else measured.mean)
            if seed.stage is Stage.FOSSILIZED:
                found.kept = f"{seed.candidate.blueprint} at {seed.site.name}"
        bill = executor.compute
        names = ("host", "shadow", "judging", "twin")
        found.macs = {name: getattr(bill, f"{name}_macs") for name in names}
        return found

    @property
    def _executor(self) -> Executor:
        assert self._grower.executor is not None
        return self._grower.executor

    def _training(self) -> list[Seed]:
        return self._executor.in_stage(Stage.TRAINING)

    def _epoch(self, found: Trained, *, looking: bool) -> None:
        model, optimizer = self._task.model, self._optimizer
        for batch in self._task.train_loader:
            with self._grower.step(batch):
                loss = self._train_step(model, optimizer, batch)
            if looking:
                found.host.append(_digest(model, optimizer, loss))

    def _look_at_kernels(self, found: Trained) -> None:
        trained = self._training()
        if trained:
            found.kernels = [_flat(seed.graft) for seed in trained]


def _flat(module: nn.Module) -> Tensor:
    """Return all of a module's weights (P,); there may be none."""
    return torch.cat([torch.zeros(0), *(p.detach().flatten() for p in module.parameters())])


def _digest(model: nn.Module, optimizer: Optimizer, loss: Tensor) -> bytes:
    """Return a digest of a host's weights, its optimizer's state, and what it has just computed."""
    digest = hashlib.sha256(loss.numpy().tobytes())
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
        for value in optimizer.state[parameter].values():
            digest.update(value.numpy().tobytes())
    return digest.digest()


@contextmanager
def _timed_shadows(found: Trained) -> Iterator[None]:
    whole = Executor._shadow

    def timed(executor: Executor, batch: Any) -> None:
        started = time.thread_time()
        whole(executor, batch)
        found.shadow_s += time.thread_time() - started

    with replaced(f"{Executor.__module__}.Executor._shadow", timed):
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute on one thread for a block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def untouched_row(
    figure: str, alone: Trained, one_by_one: Trained, batched: Trained, effort: Effort
) -> Row:
    """Count steps after which a host differs from one `alone`; too few of them show nothing."""
    differing = sum(
        mine != own
        for each in (one_by_one, batched)
        for mine, own in zip(each.host, alone.host, strict=True)
    )
    compared, least = len(alone.host), _GROWTH[effort]["dwell_steps"]
    return judged(
        figure,
        float(differing),
        "steps",
        Bar("at most", 0.0),
        note=f"of {compared} with candidates one by one and as many batched; bitwise: weights, "
        "optimizer state, loss",
        doubt="" if compared >= least else f"only {compared} steps were compared",
    )
