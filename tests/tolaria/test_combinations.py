"""Precision, accumulation, clipping, schedules, optimizers and boundaries, in any combination."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from esper_async.tolaria.control import Steer
from tests.growth_hosts import differing
from tests.kasmina.test_culling import OPTIMIZERS
from tests.tolaria.growth_tasks import listed, shuffled
from tests.tolaria.test_engine import Script, run, weights

# a first step that overflows is skipped, after which torch warns of any schedule
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")

EPOCHS = 2
_HALVES: dict[str, Any] = {"32": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Setting:
    """How a run trains."""

    optimizer: str
    precision: Any
    accumulate: int
    clip_norm: float | None
    every: Any
    boundary_every: Any

    @property
    def task(self) -> dict[str, Any]:
        """What is the task's of it."""
        return {
            "optimizer": OPTIMIZERS[self.optimizer],
            "clip_norm": self.clip_norm,
            "scheduler_every": self.every,
        }

    @property
    def run(self) -> dict[str, Any]:
        """What is the run's of it."""
        return {
            "precision": self.precision,
            "accumulate": self.accumulate,
            "boundary_every": self.boundary_every,
        }


SETTINGS = st.builds(
    Setting,
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    precision=st.sampled_from(list(_HALVES)),
    accumulate=st.integers(1, 3),
    clip_norm=st.sampled_from([None, 0.1, 1.0]),
    every=st.sampled_from(["boundary", "step"]),
    boundary_every=st.sampled_from(["epoch", 1, 3]),
)


@pytest.mark.usefixtures("one_thread")
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(setting=SETTINGS)
def test_a_run_that_does_not_grow_is_bitwise_the_loop_by_hand(setting: Setting) -> None:
    outcome, _ = run(listed(**setting.task), policy="static", epochs=EPOCHS, **setting.run)
    assert differing(by_hand(setting), weights(outcome)) == []


def by_hand(setting: Setting) -> dict[str, Any]:
    """Train as PyTorch's documentation has it: scale, unscale, clip, step, update."""
    task: Any = listed()
    torch.manual_seed(3)
    optimizer = OPTIMIZERS[setting.optimizer](task.model.parameters())
    steps = -(-4 // setting.accumulate)
    every = steps if setting.boundary_every == "epoch" else setting.boundary_every
    boundaries = -(-steps * EPOCHS // every)
    schedule = CosineAnnealingLR(
        optimizer, T_max=steps * EPOCHS if setting.every == "step" else boundaries
    )
    scaler = GradScaler("cpu", enabled=setting.precision == "16-mixed")
    done = 0
    for _ in range(EPOCHS):
        for first in range(0, 4, setting.accumulate):
            batches = task.train_loader[first : first + setting.accumulate]
            step_by_hand(setting, task.model, optimizer, scaler, batches)
            done += 1
            if setting.every == "step" or done % every == 0:
                schedule.step()
    return dict(task.model.state_dict())


def step_by_hand(
    setting: Setting, model: nn.Module, optimizer: Optimizer, scaler: GradScaler, batches: Any
) -> None:
    half = _HALVES[setting.precision]
    optimizer.zero_grad()
    for inputs, targets in batches:
        with torch.autocast("cpu", dtype=half, enabled=half is not None):
            loss = F.cross_entropy(model(inputs), targets)
        scaler.scale(loss / len(batches) if len(batches) > 1 else loss).backward()
    scaler.unscale_(optimizer)
    if setting.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), setting.clip_norm)
    scaler.step(optimizer)
    scaler.update()


@settings(max_examples=5, deadline=None)
@given(setting=SETTINGS, cut=st.integers(2, 20))
def test_a_growing_run_is_drained_and_goes_on_bitwise(setting: Setting, cut: int) -> None:
    growing: dict[str, Any] = {**setting.run, "epochs": 8}
    whole, _ = run(shuffled(**setting.task), **growing)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run(shuffled(**setting.task), place, Script({cut: [Steer("drain")]}), **growing)
        rest, _ = run(shuffled(**setting.task), place, **growing)
    assert rest.history == whole.history
    assert differing(weights(whole), weights(rest)) == []
