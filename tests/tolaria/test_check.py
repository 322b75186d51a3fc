"""`check` tells every problem at once, and says that a task can be trained only if it can."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from esper_async.tasks.tensor_loader import TensorLoader
from esper_async.tolaria.check import check_run
from esper_async.tolaria.run_file import parse_run
from esper_async.tolaria.task import Task
from tests.growth_hosts import make_batches
from tests.tolaria.growth_tasks import listed, shuffled


def checked(make: Callable[[], Task], policy: str = "static", **run: Any) -> dict[str, Any]:
    run_file = parse_run(
        {"run": {"task": "some.module:make", "epochs": 2, **run}, "growth": {"policy": policy}}
    )
    with mock.patch("esper_async.tolaria.check.load_task", lambda *_, **__: make()):
        return check_run(run_file)


def division(*_: Any) -> Any:
    return 1 / 0


def batches() -> list[Any]:
    return list(listed().train_loader)


def once(name: str = "train_loader") -> Iterator[Any]:
    return iter(list(getattr(listed(), name)))


class SecondTime:
    """Raises when it is iterated for the second time."""

    def __init__(self) -> None:
        self.times = 0

    def __iter__(self) -> Iterator[Any]:
        self.times += 1
        if self.times > 1:
            raise OSError("the archive is closed")
        yield from batches()


PROBLEMS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a metric that raises": (
        {"metrics": {"hits": division, "misses": division}, "primary_metric": None},
        ["Task.metrics['hits'] raised ZeroDivisionError", "Task.metrics['misses'] raised"],
    ),
    "an optimizer that raises": (
        {"optimizer": division},
        ["Task.optimizer raised ZeroDivisionError"],
    ),
    "an optimizer that needs a closure": (
        {"optimizer": torch.optim.LBFGS},
        ["Task.optimizer returned LBFGS, whose step needs a closure"],
    ),
    "an optimizer that is none": ({"optimizer": lambda _: None}, ["Task.optimizer returned None"]),
    "a scheduler that raises": ({"scheduler": division}, ["Task.scheduler raised ZeroDivision"]),
    "a teacher of another shape": (
        {"teacher": torch.nn.Linear(6, 5)},
        ["Task.teacher: the teacher answers with logits of shape (16, 5), the host with (16, 3)"],
    ),
    "a teacher that raises": ({"teacher": torch.nn.Linear(2, 3)}, ["Task.teacher raised Runtime"]),
    "a validation batch of numbers": (
        {"validation_loader": [3, 4]},
        ["Task.validation_loader: no tensor found in the batch"],
    ),
    "an empty validation loader": (
        {"validation_loader": []},
        ["Task.validation_loader yielded"],
    ),
    "an empty test loader": ({"test_loader": []}, ["Task.test_loader yielded no batch"]),
    "a training loader good for one pass": (
        {"train_loader": once()},
        ["Task.train_loader yields nothing the second time"],
    ),
    "a validation loader good for one pass": (
        {"validation_loader": once("validation_loader")},
        ["Task.validation_loader yields nothing the second time"],
    ),
    "a loader that raises the second time": (
        {"train_loader": SecondTime()},
        ["Task.train_loader raised OSError: the archive is closed the second time"],
    ),
    "a loss that raises": ({"loss": division}, ["Task.loss raised ZeroDivisionError"]),
    "a loss that is no tensor": ({"loss": lambda *_: 3.0}, ["Task.loss returned a float"]),
    "a model that does not fit": (
        {"train_loader": [(torch.randn(4, 5), torch.zeros(4, dtype=torch.long))] * 2},
        ["Task.model.forward raised RuntimeError"],
    ),
    "several things": (
        {"optimizer": division, "test_loader": [], "train_loader": SecondTime()},
        ["Task.optimizer raised", "Task.train_loader raised", "Task.test_loader yielded"],
    ),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_what_would_fail_a_run_is_a_problem_that_names_the_field(case: str) -> None:
    changes, named = PROBLEMS[case]
    found = checked(lambda: listed(**changes))["problems"]
    assert len(found) == len(named), found
    assert all(problem.startswith(start) for problem, start in zip(found, named, strict=True))


def test_a_problem_says_what_would_be_right() -> None:
    (problem,) = checked(lambda: listed(train_loader=once()))["problems"]
    assert "give a list, a DataLoader, or an object whose __iter__ begins anew" in problem
    task = listed(metrics={"hits": division}, primary_metric=None)
    (problem,) = checked(lambda: task)["problems"]
    assert "(output, target)" in problem


def test_a_long_generator_is_known_to_be_good_for_one_pass() -> None:
    task = listed(train_loader=(batch for batch in batches() * 60))
    (problem,) = checked(lambda: task)["problems"]
    assert problem.startswith("Task.train_loader yields nothing the second time")


def test_boundaries_that_never_come_and_a_device_that_is_not_there_are_problems() -> None:
    with mock.patch("torch.cuda.is_available", lambda: False):
        found = checked(listed, boundary_every=1000, device="cuda")["problems"]
    assert [problem.split()[0] for problem in found] == ["run.device", "run.boundary_every"]


def test_one_epoch_may_be_trained_from_a_generator() -> None:
    assert checked(lambda: listed(train_loader=once()), epochs=1)["problems"] == []


def test_a_test_split_may_be_a_generator() -> None:
    assert checked(lambda: listed(test_loader=once("test_loader")))["problems"] == []


def loaded(model: Task) -> Task:
    rows = torch.cat([batch[0] for batch in batches()])
    labels = torch.cat([batch[1] for batch in batches()])
    model.train_loader = TensorLoader(rows, labels, batch_size=16, seed=1)
    return model


def drawing() -> Task:
    """Return a task whose loader draws its order from a generator of its own."""
    rows, labels = torch.randn(64, 6), torch.zeros(64, dtype=torch.long)
    order = DataLoader(
        TensorDataset(rows, labels),
        batch_size=16,
        shuffle=True,
        generator=torch.Generator().manual_seed(1),
    )
    return listed(train_loader=order)


class Unrepeatable(list[Any]):
    """Batches in an order that no random state decides."""

    def __iter__(self) -> Iterator[Any]:
        return iter(random.SystemRandom().sample(list(self[:]), len(self)))


def unrepeatable() -> Task:
    return listed(train_loader=Unrepeatable(make_batches("mlp", count=40)))


@pytest.mark.parametrize(
    ("make", "promise"),
    [
        (listed, "bitwise"),
        (shuffled, "bitwise"),
        (lambda: loaded(listed()), "bitwise"),
        (drawing, "bitwise"),
        (unrepeatable, "approximate"),
    ],
)
def test_a_task_without_a_problem_is_told_how_it_resumes(
    make: Callable[[], Task], promise: str
) -> None:
    document = checked(make)
    assert document["problems"] == []
    assert document["resumable"] == promise


def test_the_sites_and_what_fits_them_are_listed() -> None:
    document = checked(listed, policy="heuristic")
    assert document["problems"] == []
    assert all(site["blueprints"] for site in document["sites"])


def test_the_model_is_left_as_it_was() -> None:
    task = listed()
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    checked(lambda: task, policy="heuristic")
    after = task.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in task.model.parameters())


def test_the_command_ends_with_1_and_reports_though_a_loader_raises(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from esper_async.tolaria.check import main

    (tmp_path / "run.toml").write_text("[run]\ntask = 'some.module:make'\nepochs = 2\n")
    task = listed(train_loader=SecondTime())
    with mock.patch("esper_async.tolaria.check.load_task", lambda *_, **__: task):
        assert main([str(tmp_path / "run.toml"), "--json"]) == 1
    assert "the archive is closed" in capsys.readouterr().out


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target)


def test_what_is_no_problem_but_worth_knowing_is_a_note() -> None:
    document = checked(lambda: listed(loss=cross_entropy))
    assert document["problems"] == []
    assert "paired by batch" in document["notes"][0]
