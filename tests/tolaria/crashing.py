"""A run that is killed with SIGKILL, again and again, and resumes: does it end where it should?

The runs happen in a process of their own, which imports torch once and forks a child for each
life. `python crashing.py FOLDER PLAN` is that process.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from esper_async.kasmina.options import GrowthOptions
from esper_async.runtime.journal import read_journal
from esper_async.tolaria.control import Steer
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.task import Task
from tests.growth_hosts import make_batches, make_host, plain_step

STEPS_PER_EPOCH = 8
_LIFE_LIMIT_S = 120.0
_BLUEPRINTS = ["BP001", "BP014", "BP021"]
_GROWTH = GrowthOptions(
    dwell_steps=12,
    shadow_every=1,
    ramp_boundaries=2,
    window_boundaries=2,
    max_windows=2,
    embargo_boundaries=1,
    g2_margin=-1e9,
    g4_margin=0.0,
    warmup_steps=8,
    parameter_budget=50.0,
)
ROOT = Path(__file__).parents[2]


class CrashRunError(RuntimeError):
    """A life of the run ended neither by its kill nor by the run's end; the message says how."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run and the instants at which it is killed.

    `kills` are (step, delay in ms after it); each life takes the next one. At `cull_step` an
    operator asks for the removal of the seed then on trial or in training. `mutation` names
    what is broken in the children.
    """

    epochs: int = 16
    seed: int = 3
    checkpoint_every: int = 4
    kills: Sequence[tuple[int, float]] = field(default_factory=list)
    cull_step: int | None = None
    mutation: str | None = None


def final_state(folder: Path, plan: Plan) -> dict[str, Any]:
    """Run a plan in `folder` and return the final weights, optimizer state and stages.

    Raises:
        CrashRunError: a life ended in another way than planned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, __file__, str(folder), json.dumps(asdict(plan))],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=_LIFE_LIMIT_S * (len(plan.kills) + 1),
    )
    if done.returncode:
        raise CrashRunError(done.stderr[-2000:])
    state: dict[str, Any] = torch.load(folder / "final.pt", weights_only=True)
    return state


def _nursery(folder: Path, plan: Plan) -> None:
    """Fork a child for each life; all but the last must die by their kill."""
    _warm_up()
    for life in range(len(plan.kills) + 1):
        child = os.fork()
        if child == 0:
            _live(folder, plan, life)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        wanted = life < len(plan.kills)
        if killed is not wanted or (not wanted and status != 0):
            raise CrashRunError(f"life {life + 1} ended with wait status {status}")


def _warm_up() -> None:
    """Import what torch imports at the first optimizer step, once for all children."""
    model = make_host("mlp")
    plain_step(model, torch.optim.AdamW(model.parameters()), make_batches("mlp", count=1)[0])


def _live(folder: Path, plan: Plan, life: int) -> None:
    code = 1
    try:
        with _mutation(plan.mutation):
            kill = plan.kills[life] if life < len(plan.kills) else None
            _train(folder, plan, _Fate(folder, plan, kill))
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stderr.flush()
        os._exit(code)


class _Fate:
    """The run's control: sends an operator's wish, and kills the process at its instant."""

    def __init__(self, folder: Path, plan: Plan, kill: tuple[int, float] | None) -> None:
        told = read_journal(folder / "journal.jsonl")
        self._asked = any(record.get("policy") == "operator" for record in told)
        self._plan = plan
        self._kill = kill
        self._step = 0
        self.engine: Engine | None = None

    def poll(self) -> Sequence[Steer]:
        """Ask for a seed's removal; once, or until it is journaled."""
        due = self._plan.cull_step is not None and self._step >= self._plan.cull_step
        if not due or self._asked or self.engine is None:
            return ()
        executor = self.engine.grower.executor
        living = [] if executor is None else executor.with_optimizer()
        if not living:
            return ()
        self._asked = True
        return (Steer("cull", seed=living[0].id),)

    def heartbeat(self, step: int, **progress: Any) -> None:
        """Note the step; at the planned one, die a little later."""
        self._step = step
        if self._kill is not None and step >= self._kill[0]:
            delay_ms, self._kill = self._kill[1], None
            if delay_ms == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Thread(target=_die_in, args=(delay_ms,), daemon=True).start()

    def wait(self, timeout_s: float) -> None:
        """Not wait: nothing pauses this run."""


def _die_in(delay_ms: float) -> None:
    time.sleep(delay_ms / 1e3)
    os.kill(os.getpid(), signal.SIGKILL)


def _make_task() -> Task:
    batches = make_batches("mlp", count=STEPS_PER_EPOCH + 4)
    inputs = torch.cat([batch[0] for batch in batches[:STEPS_PER_EPOCH]])
    targets = torch.cat([batch[1] for batch in batches[:STEPS_PER_EPOCH]])
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=16, shuffle=True)
    return Task(
        model=make_host("mlp"),
        train_loader=loader,
        validation_loader=batches[STEPS_PER_EPOCH:],
        loss=F.cross_entropy,
        clip_norm=1.0,
    )


def _train(folder: Path, plan: Plan, fate: _Fate) -> None:
    options = RunOptions(
        epochs=plan.epochs,
        seed=plan.seed,
        threads=1,
        growth=_GROWTH,
        checkpoint_every=plan.checkpoint_every,
    )
    engine = Engine(
        _make_task(), options, folder=folder, control=fate, blueprints=list(_BLUEPRINTS)
    )
    fate.engine = engine
    with closing(engine):
        grower = engine.run().grower
    executor = grower.executor
    seeds = [] if executor is None else list(executor.seeds.values())
    final = {
        "model": dict(grower.model.state_dict()),
        "optimizer": grower.optimizer.state_dict(),
        "stages": [(seed.id, seed.candidate.blueprint, seed.stage.name) for seed in seeds],
    }
    torch.save(final, folder / "final.pt")


def _mutation(name: str | None) -> AbstractContextManager[Any]:
    if name is None:
        return nullcontext()
    if name == "journal not replayed":
        target = "esper_async.tolaria.run_journal.RunJournal.decisions"
        return mock.patch(target, lambda *_, **__: [])
    if name == "random states not restored":
        return mock.patch("esper_async.tolaria.global_random.restore", lambda _: None)
    raise ValueError(f"unknown mutation {name!r}")


if __name__ == "__main__":
    told = json.loads(sys.argv[2])
    told["kills"] = [tuple(kill) for kill in told["kills"]]
    _nursery(Path(sys.argv[1]), Plan(**told))
