"""The run that is killed at named places: one life of it, from where the last one died.

A small host grows under the heuristic policy. On its way it comes by everything that a kill may
hit: checkpoints, a tournament, a guard that sends the run back, a blend, a trial beside a twin, and
an operator who has the seed on trial removed.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.snapshot import nested_tensors
from esper_async.runtime.journal import read_journal
from esper_async.study.bench.benchmark import replaced
from esper_async.study.bench.hosts import DenseHost, batches
from esper_async.tolaria.control import Steer
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.loss_guard import LossGuard
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.task import Task
from esper_async.urza import Library

EPOCHS, STEPS_AN_EPOCH, CHECKPOINT_EVERY = 16, 8, 4
TROUBLE_AT = 36
"""A little after the first checkpoint, with seeds in shadow and none on trial."""
CULL_AT = 76
"""With a seed on trial beside its twin, since before the second checkpoint."""
_CHECKPOINT_STEPS = CHECKPOINT_EVERY * STEPS_AN_EPOCH
_POLL_S = 0.001
_BATCH = 16
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


class Fate:
    """What comes to a life from outside: an operator's wish, and trouble with the loss.

    With `waits` the life trains on only once its last checkpoint is in place, so that what follows
    does not hang on how long the machine took to write it.
    """

    def __init__(self, folder: Path, *, waits: bool = False) -> None:
        self._checkpoints = folder / "checkpoints"
        self._waits = waits
        told = list(read_journal(folder / "journal.jsonl"))
        self._asked = any(record.get("policy") == "operator" for record in told)
        self._went_back = any(record["kind"] == "rollback" for record in told)
        self.engine: Engine | None = None
        self.step = 0

    def poll(self) -> Sequence[Steer]:
        """Ask for the removal of the seed on trial; once, or until it is journaled."""
        executor = None if self.engine is None else self.engine.grower.executor
        if self._asked or self.step < CULL_AT or executor is None or executor.trial is None:
            return ()
        self._asked = True
        return (Steer("cull", seed=executor.trial.seed.id),)

    def find_trouble(self, guard: LossGuard, loss: float) -> str | None:
        """Judge a loss in the guard's place: bad at its step, until the run went back from it."""
        if self._went_back or self.step + 1 < TROUBLE_AT:
            return _whole_look(guard, loss)
        self._went_back = True
        return "the loss is what a drill made of it"

    def heartbeat(self, step: int, **progress: Any) -> None:
        """Note the step."""
        self.step = step
        due = (step - 1) // _CHECKPOINT_STEPS * _CHECKPOINT_STEPS
        while self._waits and due and not (self._checkpoints / f"{due:010d}.json").exists():
            time.sleep(_POLL_S)

    def wait(self, timeout_s: float) -> None:
        """Not wait: nothing pauses this run."""


def live(folder: Path, fate: Fate) -> None:
    """Train the run in `folder` to its end, and leave a digest of all its tensors in `end.json`."""
    options = RunOptions(
        epochs=EPOCHS, seed=3, threads=1, growth=_GROWTH, checkpoint_every=CHECKPOINT_EVERY
    )
    library = Library(folder.parent / "urza", actor="drill")
    engine = Engine(
        _make_task(),
        options,
        folder=folder,
        control=fate,
        certificates=library,
        blueprints=_BLUEPRINTS,
    )
    fate.engine = engine

    def look(guard: LossGuard, loss: float) -> str | None:
        return fate.find_trouble(guard, loss)

    place = f"{LossGuard.__module__}.LossGuard.look"
    with closing(library), closing(engine), replaced(place, look):
        grower = engine.run().grower
    digest = hashlib.sha256()
    for name, tensor in nested_tensors(grower.state_dict()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    (folder / "end.json").write_text(json.dumps({"tensors": digest.hexdigest()}))


def _make_task() -> Task:
    torch.manual_seed(0)
    drawn = batches(STEPS_AN_EPOCH + 2, size=_BATCH)
    images = torch.cat([images for images, _ in drawn[:STEPS_AN_EPOCH]])  # (128, 1, 8, 8)
    labels = torch.cat([labels for _, labels in drawn[:STEPS_AN_EPOCH]])  # (128,)
    return Task(
        model=DenseHost(),
        train_loader=DataLoader(TensorDataset(images, labels), batch_size=_BATCH, shuffle=True),
        validation_loader=drawn[STEPS_AN_EPOCH:],
        loss=F.cross_entropy,
        clip_norm=1.0,
    )


_whole_look = LossGuard.look
