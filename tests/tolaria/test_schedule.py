"""Learning-rate schedules of every common kind, stepped by the one authority."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.optim import lr_scheduler as lrs

from esper_async.kasmina.stage import Stage
from esper_async.tolaria.control import Steer
from esper_async.tolaria.early_stop import boundaries_since_best
from esper_async.tolaria.lr import LRController
from esper_async.tolaria.schedule import make_scheduler
from esper_async.tolaria.task import Task, TaskError
from tests.growth_hosts import differing
from tests.tolaria.growth_tasks import accuracy, listed, shuffled
from tests.tolaria.test_engine import Script, run, weights
from tests.tolaria.test_lr import Newborn

pytestmark = pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")

PEAK = 0.05
SCHEDULES: dict[str, Any] = {
    "one cycle": lambda o, total: lrs.OneCycleLR(o, max_lr=PEAK, total_steps=total),
    "cosine": lambda o, total: lrs.CosineAnnealingLR(o, T_max=total),
    "warm restarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, T_0=3),
    "lambda": lambda o: lrs.LambdaLR(o, lambda step: 0.9**step),
    "multiplied": lambda o: lrs.MultiplicativeLR(o, lambda step: 0.9),
    "exponential": lambda o: lrs.ExponentialLR(o, 0.9),
    "in steps": lambda o: lrs.StepLR(o, 2, 0.5),
    "in uneven steps": lambda o: lrs.MultiStepLR(o, [1, 4], 0.5),
    "polynomial": lambda o, total: lrs.PolynomialLR(o, total, power=2.0),
    "cyclic": lambda o: lrs.CyclicLR(o, 0.01, PEAK, step_size_up=3),
    "warm-up, then cosine": lambda o: lrs.SequentialLR(
        o, [lrs.LinearLR(o, 0.1, total_iters=3), lrs.CosineAnnealingLR(o, 20)], [3]
    ),
    "chained": lambda o: lrs.ChainedScheduler(
        [lrs.ConstantLR(o, 0.5, total_iters=2), lrs.ExponentialLR(o, 0.9)], o
    ),
}


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=PEAK, momentum=0.9)


def plateau(optimizer: Any) -> Any:
    return lrs.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("name", "every"),
    [*((name, "step") for name in SCHEDULES), ("in steps", "boundary"), ("cosine", "boundary")],
)
def test_a_run_is_bitwise_the_loop_by_hand_that_steps_the_same_schedule(
    name: str, every: Any
) -> None:
    settings: dict[str, Any] = {"optimizer": sgd, "scheduler": SCHEDULES[name]}
    outcome, records = run(listed(scheduler_every=every, **settings), policy="static", epochs=3)
    task: Any = listed()
    optimizer = sgd(task.model.parameters())
    total = 12 if every == "step" else 3
    takes_total = SCHEDULES[name].__code__.co_argcount == 2
    schedule = SCHEDULES[name](optimizer, *([total] if takes_total else []))
    torch.manual_seed(3)
    for _ in range(3):
        for inputs, targets in task.train_loader:
            optimizer.zero_grad()
            F.cross_entropy(task.model(inputs), targets).backward()
            optimizer.step()
            if every == "step":
                schedule.step()
        if every == "boundary":
            schedule.step()
    assert differing(dict(task.model.state_dict()), weights(outcome)) == []
    assert optimizer.param_groups[0]["lr"] == records[-1]["learning_rate"]
    assert not [record for record in records if record["kind"] == "rate_violation"]


def authority(name: str) -> tuple[torch.optim.Optimizer, LRController]:
    """Return a host's optimizer, and who sets its rates by a schedule that is stepped each step."""
    task = listed(scheduler=SCHEDULES[name], scheduler_every="step")
    optimizer = sgd(task.model.parameters())
    schedule = make_scheduler(task, optimizer, boundaries=5, steps=20)
    return optimizer, LRController(optimizer, warmup_steps=2, scheduler=schedule, every="step")


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_saved_schedule_goes_on_with_the_same_rates(tmp_path: Path, name: str) -> None:
    pairs = [authority(name), authority(name)]
    told: list[list[float]] = [[], []]
    for step in range(12):
        for (optimizer, rates), seen in zip(pairs, told, strict=True):
            optimizer.step()
            rates.step(())
            seen.append(rates.host_rate())
        if step == 5:
            saved = [each.state_dict() for each in pairs[0]]
            torch.save(saved, tmp_path / "saved.pt")
            pairs[1] = authority(name)
            for each, state in zip(pairs[1], torch.load(tmp_path / "saved.pt"), strict=True):
                each.load_state_dict(state)
    assert told[0] == told[1]


@pytest.mark.parametrize("name", ["one cycle", "warm-up, then cosine", "chained", "plateau"])
def test_a_schedule_goes_on_bitwise_in_a_resumed_run(tmp_path: Path, name: str) -> None:
    def task() -> Task:
        if name == "plateau":
            return shuffled(optimizer=sgd, scheduler=plateau)
        return shuffled(optimizer=sgd, scheduler=SCHEDULES[name], scheduler_every="step")

    whole, _ = run(task(), policy="static", epochs=3)
    run(task(), tmp_path, Script({6: [Steer("drain")]}), policy="static", epochs=3)
    rest, _ = run(task(), tmp_path, policy="static", epochs=3)
    assert rest.history == whole.history
    assert differing(weights(whole), weights(rest)) == []


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "cyclic"])
def test_a_seed_that_comes_late_has_the_base_rate_and_once_it_is_kept_the_hosts(name: str) -> None:
    optimizer, rates = authority(name)
    seed: Any = Newborn()
    seen = []
    for step in range(12):
        optimizer.step()
        rates.step([seed] if step >= 8 else [])
        seen.append(seed.rate)
    assert seen[8:] == pytest.approx([PEAK / 2, PEAK, PEAK, PEAK])
    seed.stage = Stage.FOSSILIZED
    rates.step([seed])
    assert seed.rate == rates.host_rate() == optimizer.param_groups[0]["lr"]


def test_a_run_that_goes_on_at_half_the_rate_has_half_of_its_schedule() -> None:
    whole, half = authority("warm-up, then cosine"), authority("warm-up, then cosine")
    half[1].slow_down(0.5)
    for _ in range(6):
        for optimizer, rates in (whole, half):
            optimizer.step()
            rates.step(())
            rates.boundary({})
        assert half[1].host_rate() == pytest.approx(0.5 * whole[1].host_rate())
    assert half[1].violations == 0


@pytest.mark.parametrize("maximize", [True, False])
def test_a_plateau_of_a_metric_that_should_rise_is_the_primary_ones(maximize: bool) -> None:
    def highest(optimizer: torch.optim.Optimizer) -> Any:
        return lrs.ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=0)

    task = listed(optimizer=sgd, scheduler=highest, maximize=maximize)
    if not maximize:
        with pytest.raises(TaskError, match="validation_accuracy is better when smaller"):
            run(task, policy="static", epochs=6)
        return
    outcome, records = run(task, policy="static", epochs=6)
    rises = [
        boundaries_since_best(outcome.history[:end], "validation_accuracy", larger_is_better=True)
        for end in range(1, 7)
    ]
    told = [record["learning_rate"] for record in records if record["kind"] == "boundary"]
    assert told[-1] == pytest.approx(PEAK * 0.5 ** sum(since > 0 for since in rises))


class Endless(list[Any]):
    """Batches that do not tell how many they are."""

    __len__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"scheduler_every": "epoch"}, "'epoch'"),
        ({"scheduler": plateau, "scheduler_every": "step"}, "waits for a metric of a boundary"),
        ({"train_loader": Endless(), "scheduler_every": "step"}, "has no length"),
        ({"scheduler": SCHEDULES["lambda"], "scheduler_every": "step"}, None),
    ],
)
def test_a_schedule_that_cannot_be_stepped_so_is_refused_with_the_way_out(
    changes: dict[str, Any], told: str | None
) -> None:
    def make() -> object:
        task = listed(metrics={"accuracy": accuracy}, **changes)
        return make_scheduler(task, sgd(task.model.parameters()), boundaries=3, steps=None)

    if told is None:
        make()
        return
    with pytest.raises(TaskError, match=told):
        make()
