"""The accuracy on the last training step before a boundary: measured beside training, or absent."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.kasmina.call import default_forward
from esper_async.leyline import StateForm
from esper_async.tolaria.control import Steer
from esper_async.tolaria.messages import system_state_of, telemetry_of
from tests.growth_hosts import differing, make_batches
from tests.tolaria.growth_tasks import accuracy, listed, regression, shuffled
from tests.tolaria.test_engine import Script, kinds, run, weights

ONE = {"policy": "static", "epochs": 1}


class Unsized:
    """The batches of a list, of which nobody knows how many there are."""

    def __init__(self, batches: list[Any]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)


class RightSoFar:
    """A metric that keeps a state: the share of right ones among all it has ever seen."""

    def __init__(self) -> None:
        self._right = self._seen = 0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self._right += int(accuracy(output, target).sum())
        self._seen += len(target)
        return torch.tensor(self._right / self._seen)


def told(outcome: Any) -> list[float | None]:
    return [entry.get("training_accuracy") for entry in outcome.history]


def by_hand(steps: list[list[Any]]) -> float:
    """Train the listed task's host on steps of batches; return how right the last one was."""
    model, right = listed().model.train(), []
    torch.manual_seed(3)  # as the run's: its dropout draws
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in steps:
        optimizer.zero_grad()
        right = []
        for inputs, target in step:
            output = model(inputs)
            (F.cross_entropy(output, target) / len(step)).backward()  # type: ignore[no-untyped-call]
            right.append(accuracy(output, target))
        optimizer.step()
    return float(torch.cat(right).double().mean())


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def constant(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


PLAIN: dict[str, Any] = {"optimizer": sgd, "scheduler": constant}


@pytest.mark.usefixtures("one_thread")
def test_it_is_that_of_the_last_step_with_the_weights_that_made_its_loss() -> None:
    batches = make_batches("mlp", count=4)
    outcome, _ = run(listed(**PLAIN), **ONE)
    assert told(outcome) == [by_hand([[batch] for batch in batches])]


@pytest.mark.usefixtures("one_thread")
def test_of_an_accumulated_step_it_is_that_of_all_its_samples() -> None:
    batches = make_batches("mlp", count=3)
    halves = [(inputs[:5], target[:5]) for inputs, target in batches[2:]]
    data = [*batches[:2], batches[2], *halves]
    outcome, _ = run(listed(train_loader=data, **PLAIN), **ONE, accumulate=2)
    assert told(outcome) == [by_hand([data[:2], data[2:]])]


@pytest.mark.usefixtures("one_thread")
def test_a_boundary_of_steps_has_its_own_and_the_one_at_the_end_too() -> None:
    batches = make_batches("mlp", count=4)
    outcome, _ = run(listed(**PLAIN), **ONE, boundary_every=3)
    first, last = (by_hand([[batch] for batch in batches[:count]]) for count in (3, 4))
    assert told(outcome) == [first, last]


def test_each_boundary_asks_the_metric_once_more_and_never_for_a_twin() -> None:
    asked = 0

    def counted(output: Tensor, target: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        return accuracy(output, target)

    plain: dict[str, Any] = {"metrics": {"accuracy": counted}, "test_loader": None}
    measured, _ = run(listed(**plain))
    with_training, asked = asked, 0
    unmeasured, _ = run(listed(train_loader=Unsized(make_batches("mlp", count=4)), **plain))
    assert any("twin_loss" in entry for entry in measured.history)
    assert None not in told(measured)
    assert told(unmeasured) == [None] * len(unmeasured.history)
    assert with_training - asked == len(measured.history)


def test_where_nobody_knows_which_step_is_the_last_it_is_not_measured() -> None:
    task = listed(train_loader=Unsized(make_batches("mlp", count=4)))
    outcome, records = run(task, **ONE)
    assert told(outcome) == [None]
    assert "training_loss" in kinds(records, "boundary")[0]["metrics"]


@pytest.mark.parametrize("metrics", [{}, {"hits": accuracy}])
def test_a_task_that_has_no_accuracy_has_none_in_training_either(metrics: Any) -> None:
    outcome, records = run(listed(metrics=metrics, primary_metric=None), **ONE)
    regressed, _ = run(regression(), **ONE)
    assert told(outcome) == told(regressed) == [None]
    assert "training_accuracy" not in kinds(records, "boundary")[0]["metrics"]


def test_a_loss_of_the_callers_own_changes_nothing_about_it() -> None:
    def own(output: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(output.log_softmax(dim=1), target) + 0.0 * output.square().mean()

    outcome, _ = run(listed(loss=own), **ONE)
    assert told(outcome)[0] is not None


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_the_metric_sees_single_precision_as_in_validation(precision: str) -> None:
    seen = set()

    def in_numpy(output: Tensor, target: Tensor) -> Any:
        seen.add(output.dtype)
        return (output.numpy().argmax(axis=1) == target.numpy()).mean()

    outcome, _ = run(listed(metrics={"accuracy": in_numpy}), **ONE, precision=precision)
    assert seen == {torch.float32}
    assert told(outcome)[0] is not None


def drawing(output: Tensor, target: Tensor) -> Tensor:
    """Return the accuracy on samples drawn at random, and spoil the targets."""
    drawn = torch.randint(len(target), (4,))
    right = accuracy(output, target)[drawn]
    target.zero_()
    return right


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16-mixed", "accumulate": 2}])
def test_training_is_bitwise_the_same_with_it_and_without(settings: dict[str, Any]) -> None:
    plain: dict[str, Any] = {"primary_metric": None, "test_loader": None}
    measured, _ = run(shuffled(metrics={"accuracy": drawing}, **plain), **settings)
    # under another name it is asked at validation alone
    unmeasured, _ = run(shuffled(metrics={"hits": drawing}, **plain), **settings)
    assert None not in told(measured)
    assert differing(weights(measured), weights(unmeasured)) == []
    losses = [[entry["training_loss"] for entry in one.history] for one in (measured, unmeasured)]
    assert losses[0] == losses[1]


def test_a_metric_with_a_state_is_left_to_validation() -> None:
    batches = make_batches("mlp", count=4)
    with capture_logs() as logs:
        outcome, _ = run(listed(metrics={"accuracy": RightSoFar()}), **ONE)
    unsized, _ = run(
        listed(metrics={"accuracy": RightSoFar()}, train_loader=Unsized(batches)), **ONE
    )
    assert told(outcome) == [None]
    assert outcome.history == unsized.history
    (warning,) = [entry for entry in logs if entry["event"] == "training_accuracy_not_measured"]
    assert "RightSoFar" in warning["reason"]


def test_a_metric_that_cannot_take_training_data_ends_no_run_and_is_told_of_once() -> None:
    def strict(output: Tensor, target: Tensor) -> Tensor:
        if target.is_floating_point():
            raise ValueError("targets should be classes")
        return accuracy(output, target)

    def forward(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        output, target = default_forward(model, batch)
        return output, F.one_hot(target, output.shape[1]).float() if model.training else target

    with capture_logs() as logs:
        outcome, _ = run(
            listed(metrics={"accuracy": strict}, forward=forward), policy="static", epochs=3
        )
    assert told(outcome) == [None] * 3
    (warning,) = [entry for entry in logs if entry["event"] == "training_accuracy_not_measured"]
    assert "targets should be classes" in warning["reason"]


@pytest.mark.usefixtures("one_thread")
def test_a_run_drained_between_its_last_step_and_the_boundary_has_it(tmp_path: Path) -> None:
    whole, _ = run(shuffled(), tmp_path / "whole", policy="static", epochs=3)
    drained, _ = run(
        shuffled(), tmp_path / "cut", Script({8: [Steer("drain")]}), policy="static", epochs=3
    )
    assert drained.state == "drained"
    assert len(drained.history) == 1
    rest, _ = run(shuffled(), tmp_path / "cut", policy="static", epochs=3)
    assert None not in told(whole)
    assert rest.history == whole.history


def test_it_is_told_in_telemetry_and_in_the_state_packet() -> None:
    outcome, records = run(listed(), **ONE)
    (record,) = kinds(records, "boundary")
    (value,) = told(outcome)
    points = {point.name: point for point in telemetry_of(record, loss_unit="nats").points}
    point = points["tolaria.training.accuracy"]
    assert (point.value, point.unit) == (value, "ratio")
    packet = system_state_of(record, form=StateForm("run", "name"))
    assert packet.metrics["training_accuracy"] == pytest.approx(value)
