"""Runs of several ranks, as a script for `torchrun`: `rank_runs.py FOLDER LIFE...`.

A life is one or several scenarios, joined by "+", in fresh processes: each rank imports torch once
and forks a child for each life. It leaves `SCENARIO-RANK.pt` in the folder.
"""

import copy
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from esper_async import DistributedRanks, Grower, MicroBatches
from esper_async.kasmina.seed import Candidate
from esper_async.kasmina.stage import Stage
from esper_async.runtime.processes import processes_naming
from esper_async.tamiyo.command import Command, Cull, Decision, Germinate, NoOp
from esper_async.tamiyo.view import View
from tests.growth_hosts import Batch, make_batches, make_host, plain_step

RANKS = 2
STEPS_AN_EPOCH = 4
BOUNDARIES = 11
SAVED = (2, 5, 8, 10)
"""In TRAINING; on trial, with a twin and averages; on trial beside a kept seed; after its cull."""
LIMIT_S = 120.0
ROOT = Path(__file__).parents[2]
_GROWTH: dict[str, Any] = {
    "dwell_steps": 8,
    "shadow_every": 1,
    "ramp_boundaries": 1,
    "window_boundaries": 2,
    "max_windows": 1,
    "embargo_boundaries": 1,
    "g2_margin": -1e9,
    "g4_margin": -1e9,
    "warmup_steps": 4,
    "parameter_budget": 50.0,
}
_ACCUMULATED = {"dwell_steps": 4}  # three steps an epoch
_OPTIONS: dict[str, Any] = {}


def launch(folder: Path, *lives: str, ranks: int = RANKS) -> None:
    """Run lives, each in fresh processes, in so many ranks; none of them is left afterwards."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(ranks), __file__, str(folder), *lives]
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            check=False,
            timeout=LIMIT_S,
        )
    finally:
        for left in processes_naming(folder):
            os.kill(left, signal.SIGKILL)
    assert done.returncode == 0, done.stdout[-4000:]


class Script:
    """A policy that knows in advance what it will decide."""

    name: ClassVar[str] = "script"
    version: ClassVar[str] = "1"
    _plan: ClassVar[dict[int, Command]] = {
        1: Germinate((Candidate("stem", "BP015"), Candidate("body", "BP009"))),
        6: Germinate((Candidate("body", "BP015"),)),
    }

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def decide(self, view: View) -> Decision:
        """Plant two candidates, keep one; plant another, and cull it after the blend."""
        assert self._rank == 0, "only rank 0 decides"
        command = self._plan.get(view.boundary, NoOp())
        if view.boundary == 9:
            command = Cull(next(seed.id for seed in view.seeds if seed.stage is Stage.SHADOWING))
        return Decision(command, "as planned", 1.0, ({"boundary": view.boundary},))

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the plan is fixed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing over."""


class Untouched:
    """A loader that nobody may iterate."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("only rank 0 evaluates")


class Run:
    """A conv net with batch norm and dropout, its plain loop, and a grower in it."""

    def __init__(self, **changes: Any) -> None:
        rank = dist.get_rank()
        torch.manual_seed(rank)
        count = dist.get_world_size() * STEPS_AN_EPOCH
        self.batches = make_batches("conv2d", count=count)[rank :: dist.get_world_size()]
        self.decision: Any = make_batches("conv2d", count=2, seed=1) if rank == 0 else Untouched()
        self.model: nn.Module = changes.pop("model", None) or make_host("conv2d")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        settings: dict[str, Any] = {
            "policy": Script(rank),
            "seed": 3,
            "train_step": plain_step,
            "growth": _GROWTH,
            "sites": {"stem": "stem", "body": "body"},
            "blueprints": ["BP009", "BP015"],
            "state_dir": None,
            "progress": lambda *_: None,
            "ranks": DistributedRanks(**_OPTIONS),
        }
        self.grower = Grower(
            self.model, self.optimizer, loss=F.cross_entropy, **{**settings, **changes}
        )

    def epoch(self) -> None:
        """Train on every batch and pass a boundary."""
        for batch in self.batches:
            with self.grower.step(batch):
                self.step(batch)
        self.grower.boundary(self.decision)

    def step(self, batch: Batch) -> None:
        """Make one optimizer step."""
        plain_step(self.grower.trained_model, self.optimizer, batch)

    def state(self) -> dict[str, Any]:
        """Return a copy of the grower's state."""
        return copy.deepcopy(self.grower.state_dict())

    def until(self, stage: Stage) -> None:
        """Go on to the boundary at which a seed enters a stage."""
        for _ in range(BOUNDARIES):
            self.epoch()
            executor = self.grower.executor
            if executor is not None and executor.in_stage(stage):
                return
        raise AssertionError(f"no seed reached {stage.name}")


# -- scenarios -------------------------------------------------------------------------------------


def whole(folder: Path) -> Any:
    """Train to the end; return the state after every boundary, and every wrap that there was."""
    run, states, wraps = Run(), [], []
    for boundary in range(1, BOUNDARIES + 1):
        run.epoch()
        states.append(run.state())
        wraps.append(run.grower.trained_model)
        if boundary in SAVED:
            torch.save(torch.get_rng_state(), folder / f"random-{boundary}-{dist.get_rank()}.pt")
            if dist.get_rank() == 0:
                torch.save(run.grower.state_dict(), folder / f"saved-{boundary}.pt")
    return {"states": states, "changes": [one is not other for one, other in pairwise(wraps)]}


def resumed(folder: Path) -> Any:
    """Go on from each saved state to the end; return the last states."""
    ends = {}
    for boundary in SAVED:
        run = Run()
        run.grower.load_state_dict(torch.load(folder / f"saved-{boundary}.pt", weights_only=True))
        torch.set_rng_state(torch.load(folder / f"random-{boundary}-{dist.get_rank()}.pt"))
        for _ in range(boundary, BOUNDARIES):
            run.epoch()
        ends[boundary] = run.state()
    return ends


def whole_in_fixed_buckets(folder: Path) -> Any:
    """Train to the end; no wrap arranges its buckets anew after its first step."""
    with mock.patch.dict(_OPTIONS, find_unused_parameters=True):
        return whole(folder)


def resumed_in_fixed_buckets(folder: Path) -> Any:
    """Go on from each saved state in the same way."""
    with mock.patch.dict(_OPTIONS, find_unused_parameters=True):
        return resumed(folder)


def plain(folder: Path) -> Any:
    """Train the host alone, wrapped by hand, for three epochs; return its state after each."""
    run = Run()
    wrap = DistributedDataParallel(run.model)
    states = []
    for _ in range(3):
        for batch in run.batches:
            plain_step(wrap, run.optimizer, batch)
        state = {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()}
        states.append(copy.deepcopy(state))
    return states


def not_averaged(folder: Path) -> Any:
    """Mutant: every rank trains the kernels on its own gradients."""
    with mock.patch.object(DistributedRanks, "average", lambda *_: None):
        return _failing(lambda run: run.until(Stage.BLENDING))


def living_wrap(folder: Path) -> Any:
    """Mutant: the wrap of the bare host goes on after a seed has joined it."""
    with mock.patch("esper_async.kasmina.branch.Branch._forget_wrap", lambda _: None):
        return _failing(lambda run: run.until(Stage.FOSSILIZED))


def around_the_wrap(folder: Path) -> Any:
    """The caller's loop calls its own model."""

    def train(run: Run) -> None:
        run.step = lambda batch: plain_step(run.model, run.optimizer, batch)  # type: ignore
        run.epoch()

    return _failing(train)


def old_wrap(folder: Path) -> Any:
    """The caller's loop keeps a wrap for good."""

    def train(run: Run) -> None:
        kept = run.grower.trained_model
        run.step = lambda batch: plain_step(kept, run.optimizer, batch)  # type: ignore
        run.until(Stage.FOSSILIZED)

    return _failing(train)


def other_options(folder: Path) -> Any:
    """The ranks are given other options."""
    return _failing(Run.epoch, growth={**_GROWTH, "dwell_steps": 8 + dist.get_rank()})


def other_host(folder: Path) -> Any:
    """The ranks build another host."""
    model = make_host("conv2d")
    model.head = nn.Linear(8, 3 + dist.get_rank())
    return _failing(Run.epoch, model=model)


def other_state(folder: Path) -> Any:
    """The ranks load what was saved at different boundaries."""
    path = folder / f"saved-{SAVED[dist.get_rank()]}.pt"
    return _failing(lambda run: run.grower.load_state_dict(torch.load(path, weights_only=True)))


def broken_loader(folder: Path) -> Any:
    """Rank 0's validation loader raises; then training goes on as if it had not been asked."""

    def train(run: Run) -> None:
        sound = run.decision
        run.decision = _broken() if dist.get_rank() == 0 else Untouched()
        try:
            run.epoch()
        finally:
            run.decision = sound
            run.epoch()

    return _failing(train)


def _broken() -> Iterator[Any]:
    yield from make_batches("conv2d", count=1)
    raise OSError("the disk is gone")


def accumulated(folder: Path) -> Any:
    """Half precision, accumulation without needless averaging, and an overflow on one rank."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    run = Run(precision="16-mixed", scaler=scaler, train_step=None, growth=_GROWTH | _ACCUMULATED)
    skipped = 0

    def step(parts: Any, factor: float) -> None:
        run.optimizer.zero_grad()
        for number, (inputs, labels) in enumerate(parts):
            wrap: Any = run.grower.trained_model
            wrap.require_backward_grad_sync = number == len(parts) - 1
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.cross_entropy(wrap(inputs), labels) * factor / len(parts)
            scaler.scale(loss).backward()
        scaler.step(run.optimizer)
        scaler.update()

    for _ in range(8):
        for number, parts in enumerate((run.batches[:2], run.batches[2:], run.batches[1:3])):
            scale = scaler.get_scale()
            bad = number == 1 and dist.get_rank() == 1
            with run.grower.step(MicroBatches(parts)):
                step(parts, 1e6 if bad else 1.0)
            skipped += scaler.get_scale() < scale
        run.grower.boundary(run.decision)
    stages = [] if run.grower.executor is None else list(run.grower.executor.seeds.values())
    return {
        "state": run.state(),
        "skipped": skipped,
        "stages": [seed.stage.name for seed in stages],
    }


def _failing(train: Callable[[Run], object], **changes: Any) -> dict[str, Any]:
    run = Run(**changes)
    try:
        train(run)
    except Exception as error:  # noqa: BLE001 - what it is, the test looks at
        return {"error": f"{type(error).__name__}: {error}", "weights": _weights(run)}
    return {"error": None, "weights": _weights(run)}


def _weights(run: Run) -> dict[str, Tensor]:
    executor = run.grower.executor
    seeds = [] if executor is None else [s for s in executor.seeds.values() if not s.ended]
    kernels = {f"{s.id}.{n}": p for s in seeds for n, p in s.graft.named_parameters()}
    return copy.deepcopy({**dict(run.model.named_parameters()), **kernels})


def main(folder: Path, lives: list[str]) -> None:
    """Fork a child for each life of this rank, one after another."""
    plain_step(model := make_host("conv2d"), torch.optim.AdamW(model.parameters()), _warm_up())
    for life in lives:
        child = os.fork()
        if child == 0:
            _live(folder, life)
        _, status = os.waitpid(child, 0)
        if status != 0:
            sys.exit(f"the life {life} ended with wait status {status}")


def _warm_up() -> Batch:
    """Return a batch for a step that imports what torch imports at the first, for all children."""
    return make_batches("conv2d", count=1)[0]


def _live(folder: Path, life: str) -> None:
    code = 1
    rank = int(os.environ["RANK"])
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder / life}.store",
            rank=rank,
            world_size=int(os.environ["WORLD_SIZE"]),
        )
        # a benefit that jumps about in a window of two boundaries would fail its gate
        with mock.patch("esper_async.kasmina.judgement.SPREAD_FACTOR", -1e12):
            for scenario in life.split("+"):
                torch.save(globals()[scenario](folder), folder / f"{scenario}-{rank}.pt")
        dist.destroy_process_group()
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
