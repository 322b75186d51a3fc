"""The one authority over learning rates."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, ReduceLROnPlateau

from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.stage import Stage
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.grower import Grower
from esper_async.tolaria.lr import LRController
from esper_async.tolaria.options import RunOptions
from tests.tolaria.growth_tasks import QUICK, listed


class Newborn:
    """What the authority reads of a seed."""

    def __init__(self, stage: Stage = Stage.TRAINING) -> None:
        self.id = "s1"
        self.stage = stage
        self.given_rate: float | None = None
        self.optimizer: Any = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.0)

    @property
    def rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])


def host(rate: float = 0.1) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    optimizer.step()
    return optimizer


def test_a_newborn_warms_up_to_the_base_rate_and_stays_there() -> None:
    rates = LRController(host(), warmup_steps=4)
    seed: Any = Newborn()
    seen = []
    for _ in range(6):
        rates.step([seed])
        seen.append(seed.rate)
    assert seen == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_a_schedule_made_after_the_authority_names_the_base_rate_all_the_same() -> None:
    optimizer = host(0.001)
    rates = LRController(optimizer, warmup_steps=1)
    OneCycleLR(optimizer, 0.2, total_steps=10)
    seed: Any = Newborn()
    rates.step([seed])
    assert seed.rate == pytest.approx(0.2)


def test_a_seed_that_was_given_a_rate_has_it_until_it_is_kept() -> None:
    rates = LRController(host(), warmup_steps=1)
    seed: Any = Newborn()
    seed.given_rate = 0.03
    rates.step([seed])
    assert seed.rate == pytest.approx(0.03)
    seed.stage = Stage.FOSSILIZED
    rates.step([seed])
    assert seed.rate == pytest.approx(0.1)


def test_a_newborn_does_not_starve_on_a_decayed_schedule_and_a_kept_one_follows_it() -> None:
    optimizer = host()
    schedule = LambdaLR(optimizer, lambda boundary: 0.1**boundary)
    optimizer.step()
    rates = LRController(optimizer, warmup_steps=1, scheduler=schedule)
    seed: Any = Newborn()
    for _ in range(2):
        rates.boundary({"validation_loss": 1.0})
    rates.step([seed])
    assert seed.rate == pytest.approx(0.1)
    seed.stage = Stage.FOSSILIZED
    rates.step([seed])
    assert seed.rate == pytest.approx(0.001)


def test_a_rate_changed_from_outside_is_restored_and_counted() -> None:
    optimizer = host()
    told: list[str] = []
    rates = LRController(
        optimizer,
        warmup_steps=1,
        scheduler=CosineAnnealingLR(optimizer, T_max=10),
        on_violation=told.append,
    )
    rates.step(())
    assert rates.violations == 0
    optimizer.param_groups[0]["lr"] = 7.0
    rates.step(())
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    assert rates.violations == 1
    assert "7.0" in told[0]
    optimizer.step()
    rates.boundary({"validation_loss": 1.0})
    rates.step(())
    assert rates.violations == 1


def test_without_a_schedule_of_its_own_the_hosts_rates_are_the_callers() -> None:
    optimizer = host()
    rates = LRController(optimizer, warmup_steps=1)
    optimizer.param_groups[0]["lr"] = 7.0
    rates.step(())
    assert optimizer.param_groups[0]["lr"] == 7.0
    assert rates.violations == 0


@pytest.mark.parametrize("policy", ["static", "random"])
def test_a_loss_that_meddles_with_the_rate_is_found_out_under_every_policy(policy: str) -> None:
    owned: list[torch.optim.Optimizer] = []

    def make(parameters: Any) -> torch.optim.Optimizer:
        owned.append(torch.optim.SGD(parameters, lr=0.05))
        return owned[0]

    def meddling(output: Tensor, target: Tensor) -> Tensor:
        if owned:
            owned[0].param_groups[0]["lr"] = 1.0
        return F.cross_entropy(output, target)

    records: list[Any] = []
    options = RunOptions(
        epochs=2, policy=policy, threads=1, growth=GrowthOptions(**QUICK), name="meddled"
    )
    task = listed(loss=meddling, optimizer=make)
    Engine(task, options, listener=records.append, blueprints=["BP001"]).run()
    violations = [record for record in records if record["kind"] == "rate_violation"]
    assert violations
    assert "restored to 0.05" in violations[0]["reason"]
    told = [record for record in records if record["kind"] == "emergency"]
    assert {record["level"] for record in told} == {"MINOR"}
    assert 1 <= len(told) < len(violations)  # once a boundary, not once a step


def test_a_callers_own_schedule_goes_through_a_grower_untouched() -> None:
    task = listed()
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.05)
    schedule = LambdaLR(optimizer, lambda step: 0.9**step)
    grower = Grower(
        task.model, optimizer, loss=task.loss, policy="random", blueprints=["BP001"], state_dir=None
    )
    expected = 0.05
    for _ in range(2):
        for inputs, targets in task.train_loader:
            with grower.step((inputs, targets)):
                optimizer.zero_grad()
                F.cross_entropy(task.model(inputs), targets).backward()
                optimizer.step()
            schedule.step()
            expected *= 0.9
            assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        grower.boundary(task.validation_loader)


def test_a_schedule_that_waits_for_a_plateau_is_told_the_validation_loss(tmp_path: Path) -> None:
    def schedule(optimizer: torch.optim.Optimizer) -> Any:
        return ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=1e9)

    records: list[Any] = []
    options = RunOptions(epochs=4, policy="static", threads=1)
    task = listed(scheduler=schedule)
    with closing(Engine(task, options, folder=tmp_path, listener=records.append)) as engine:
        engine.run()
    rates = [record["learning_rate"] for record in records if record["kind"] == "boundary"]
    assert rates[0] > rates[-1]


def test_saved_ages_go_on() -> None:
    one, other = LRController(host(), warmup_steps=10), LRController(host(), warmup_steps=10)
    seed: Any = Newborn()
    for _ in range(3):
        one.step([seed])
    other.load_state_dict(one.state_dict())
    other.step([seed])
    assert seed.rate == pytest.approx(0.04)
