"""Finding a run file's callable: everything that can be wrong names the thing."""

import calendar
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from esper_async.tolaria.task import Task, TaskError
from esper_async.tolaria.task_source import load_task

GOOD = """
import torch
from torch import nn
from esper_async import Task

def make_task(width: int = 4, seed: int = 0) -> Task:
    model = nn.Linear(width, 2)
    model.seed = seed
    batches = [(torch.zeros(2, width), torch.zeros(2, dtype=torch.long))]
    return Task(model=model, train_loader=batches, validation_loader=batches,
                loss=nn.functional.cross_entropy)

def bare() -> Task:
    return make_task()

def open_to_anything(**options) -> Task:
    return make_task(options["width"])

def broken() -> Task:
    raise ValueError("no such file: data.csv")

def other() -> int:
    return 3

VALUE = 3
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "my_training_file.py"
    path.write_text(GOOD)
    return str(path)


def test_a_file_and_a_callable_make_a_task(source: str) -> None:
    task = load_task(f"{source}:make_task", {"width": 6}, seed=5)
    assert task.model.in_features == 6
    assert task.model.seed == 5


def test_an_options_seed_goes_before_the_runs(source: str) -> None:
    assert load_task(f"{source}:make_task", {"seed": 9}, seed=5).model.seed == 9


def test_a_callable_may_take_anything(source: str) -> None:
    assert load_task(f"{source}:open_to_anything", {"width": 3}, seed=5).model.in_features == 3


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("make_task", {"wdth": 3}, "takes no wdth; it takes: seed, width"),
        ("bare", {"width": 3}, "takes no width; it takes: nothing"),
        ("broken", {}, "raised ValueError: no such file: data.csv"),
        ("other", {}, "returned int; it must return a Task"),
        ("missing", {}, "has no callable 'missing'"),
        ("VALUE", {}, "has no callable 'VALUE'"),
    ],
)
def test_what_is_wrong_with_the_callable_is_named(
    source: str, name: str, options: dict[str, int], told: str
) -> None:
    with pytest.raises(TaskError, match=told):
        load_task(f"{source}:{name}", options, seed=0)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("nowhere.py:make_task", "there is no file"),
        ("no_such_package.module:make_task", "no module 'no_such_package'"),
        ("make_task", "should be module:callable"),
        ("esper_async.tolaria.task:Nothing", "has no callable"),
    ],
)
def test_what_is_wrong_with_the_place_is_named(place: str, told: str) -> None:
    with pytest.raises(TaskError, match=told):
        load_task(place, {}, seed=0)


def test_a_file_that_raises_is_named_and_leaves_no_half_module(tmp_path: Path) -> None:
    path = tmp_path / "half_done.py"
    path.write_text("import nothing_like_this\n")
    with pytest.raises(TaskError, match="nothing_like_this"):
        load_task(f"{path}:make_task", {}, seed=0)
    assert "half_done" not in sys.modules


def test_a_file_with_the_name_of_a_library_does_not_replace_it(tmp_path: Path) -> None:
    path = tmp_path / "calendar.py"
    path.write_text(GOOD)
    load_task(f"{path}:make_task", {}, seed=0)
    assert sys.modules["calendar"] is calendar


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": 3}, "must be a torch.nn.Module"),
        ({"model": nn.ReLU()}, "no parameters"),
        ({"train_loader": 3}, "Task.train_loader must be iterable"),
        ({"primary_metric": "accuracy"}, "not in Task.metrics"),
    ],
)
def test_a_task_that_cannot_be_is_refused(change: dict[str, object], told: str) -> None:
    batches = [(torch.zeros(2, 4), torch.zeros(2))]
    good = {
        "model": nn.Linear(4, 2),
        "train_loader": batches,
        "validation_loader": batches,
        "loss": nn.functional.cross_entropy,
    }
    with pytest.raises(TaskError, match=told):
        Task(**{**good, **change})  # type: ignore[arg-type]
