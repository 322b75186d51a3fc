"""Accumulated steps and mixed precision in a whole run: as by hand, saved and resumed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from esper_async import Grower, MicroBatches
from esper_async.tolaria.control import Steer
from esper_async.tolaria.epoch_loader import EpochLoader
from esper_async.tolaria.task import TaskError
from tests.growth_hosts import differing
from tests.tolaria.growth_tasks import BLUEPRINTS, QUICK, listed, shuffled
from tests.tolaria.test_engine import Script, run, weights


def test_a_step_takes_so_many_batches_and_the_last_one_of_an_epoch_what_is_left() -> None:
    loader = EpochLoader(["a", "b", "c", "d", "e"])
    assert list(loader.steps(2)) == [("a", "b"), ("c", "d"), ("e",)]
    assert loader.epoch == 1
    assert list(loader.steps(1)) == ["a", "b", "c", "d", "e"]


def test_an_empty_loader_is_told_whatever_the_step() -> None:
    with pytest.raises(TaskError, match="no batch"):
        list(EpochLoader([]).steps(3))


@pytest.mark.usefixtures("one_thread")
def test_an_accumulating_run_is_bitwise_a_loop_by_hand() -> None:
    outcome, _ = run(listed(optimizer=adam), policy="static", epochs=3, accumulate=3)

    task = listed()
    torch.manual_seed(3)
    optimizer = adam(task.model.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)
    batches: Any = task.train_loader
    task.model.train()
    for _ in range(3):
        for step in (batches[:3], batches[3:]):
            optimizer.zero_grad()
            for inputs, targets in step:
                loss = F.cross_entropy(task.model(inputs), targets)
                (loss / len(step) if len(step) > 1 else loss).backward()
            optimizer.step()
        schedule.step()
    trained = dict(outcome.grower.model.named_parameters())
    assert differing(dict(task.model.named_parameters()), trained) == []
    assert outcome.history[-1]["step"] == 6


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2)


@pytest.mark.parametrize(
    "settings",
    [
        {"accumulate": 3},
        {"accumulate": 2, "boundary_every": 3, "epochs": 24},
        {"precision": "bf16-mixed"},
        {"precision": "16-mixed", "accumulate": 2},
    ],
)
def test_a_drained_run_goes_on_bitwise(tmp_path: Path, settings: dict[str, Any]) -> None:
    whole, _ = run(shuffled(), tmp_path / "whole", **settings)
    assert any(seed["to_stage"] == "BLENDING" for seed in whole.transitions)
    for cut in (3, 11, 17, 20):
        drained, _ = run(shuffled(), tmp_path / "cut", Script({cut: [Steer("drain")]}), **settings)
        if drained.state == "completed":
            break
    rest, _ = run(shuffled(), tmp_path / "cut", **settings)
    assert rest.history == whole.history
    assert differing(weights(whole), weights(rest)) == []


@pytest.mark.parametrize(("precision", "scaled"), [("16-mixed", False), ("bf16-mixed", True)])
def test_half_precision_and_a_scaler_go_together(precision: Any, scaled: bool) -> None:
    task = listed()
    scaler = torch.amp.GradScaler("cpu") if scaled else None  # type: ignore[attr-defined]
    optimizer = adam(task.model.parameters())
    with pytest.raises(ValueError, match="go together"):
        Grower(task.model, optimizer, loss=task.loss, precision=precision, scaler=scaler)


def test_a_loop_of_somebody_elses_accumulates_with_a_grower() -> None:
    torch.manual_seed(0)
    task = listed()
    optimizer = adam(task.model.parameters())
    scaler = torch.amp.GradScaler("cpu")  # type: ignore[attr-defined]
    grower = Grower(
        task.model,
        optimizer,
        loss=task.loss,
        seed=3,
        growth=QUICK,
        blueprints=BLUEPRINTS,
        state_dir=None,
        precision="16-mixed",
        scaler=scaler,
    )
    batches: Any = task.train_loader
    targets = set()
    for _ in range(24):
        for step in (batches[:2], batches[2:]):
            with grower.step(MicroBatches(step)):
                optimizer.zero_grad()
                for inputs, labels in step:
                    with torch.autocast("cpu", dtype=torch.float16):
                        loss = F.cross_entropy(task.model(inputs), labels) / len(step)
                    scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
        targets |= {
            move.target.name for move in grower.boundary(task.validation_loader).transitions
        }
    assert "FOSSILIZED" in targets
    assert grower.executor is not None
    assert grower.executor.steps == 48
