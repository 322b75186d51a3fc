"""The built-in tasks: real data, three disjoint splits, hosts of the promised size."""

import math
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper_async.tasks import digits, mnist1d, mnist5k, shakespeare
from esper_async.tasks.recipe import accuracy
from esper_async.tasks.splits import Split, partition
from esper_async.tasks.tensor_loader import TensorLoader
from esper_async.tolaria.task import Task

CLASSIFIERS = [digits, mnist1d, mnist5k]
TASKS = [*CLASSIFIERS, shakespeare]
RUNS = Path(__file__).parents[2] / "config" / "runs"


def splits(task: Task) -> list[TensorLoader]:
    loaders = [task.train_loader, task.validation_loader, task.test_loader]
    assert all(isinstance(loader, TensorLoader) for loader in loaders)
    return loaders  # type: ignore[return-value]


def names(samples: Tensor) -> set[bytes]:
    return {sample.numpy().tobytes() for sample in samples}


def train(task: Task, epochs: int) -> None:
    optimizer = task.make_optimizer(task.model.parameters())
    for _ in range(epochs):
        for inputs, targets in task.train_loader:
            optimizer.zero_grad()
            task.loss(task.model(inputs), targets).backward()
            optimizer.step()


@torch.no_grad()
def score(task: Task) -> float:
    loader = splits(task)[1]
    hits = [accuracy(task.model(inputs), targets) for inputs, targets in loader]
    return torch.cat(hits).mean().item()


@pytest.mark.parametrize("module", TASKS)
def test_no_sample_is_in_two_splits(module: Any) -> None:
    train_names, validation_names, test_names = (
        names(loader.inputs) for loader in splits(module.make_task())
    )
    assert not train_names & validation_names
    assert not test_names & (train_names | validation_names)


@pytest.mark.parametrize("module", TASKS)
def test_the_seed_varies_initialisation_split_and_order_and_nothing_else_does(module: Any) -> None:
    torch.manual_seed(1)
    one = module.make_task(seed=1)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    same, other = module.make_task(seed=1), module.make_task(seed=2)

    def facts(task: Task) -> list[Tensor]:
        weights = torch.cat([weight.flatten() for weight in task.model.parameters()])
        split = splits(task)[1].inputs
        return [weights.detach(), split, next(iter(task.train_loader))[0]]

    assert all(torch.equal(a, b) for a, b in zip(facts(one), facts(same), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(facts(one), facts(other), strict=True))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("module", TASKS)
def test_the_loss_reduces_by_sample_and_by_mean_alike(module: Any) -> None:
    task = module.make_task()
    inputs, targets = next(iter(task.train_loader))
    output = task.model(inputs)
    by_sample = task.loss(output, targets, reduction="none")
    assert by_sample.shape == (len(inputs),)
    assert torch.allclose(by_sample.mean(), task.loss(output, targets))


@pytest.mark.parametrize("module", TASKS)
def test_the_metrics_are_those_that_mean_something(module: Any) -> None:
    task = module.make_task()
    expected = [] if module is shakespeare else ["accuracy"]
    assert list(task.metrics) == expected
    assert task.primary_metric == (expected[0] if expected else None)


@pytest.mark.parametrize("module", TASKS)
def test_the_schedule_is_the_engine_s_cosine_unless_constant_is_asked_for(module: Any) -> None:
    assert module.make_task().scheduler is None
    with pytest.raises(ValueError, match="neither 'cosine' nor 'constant'"):
        module.make_task(schedule="linear")
    constant = module.make_task(schedule="constant")
    optimizer = constant.make_optimizer(constant.model.parameters())
    schedule = constant.scheduler(optimizer)
    before = optimizer.param_groups[0]["lr"]
    for _ in range(5):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == before


@pytest.mark.parametrize("module", TASKS)
def test_a_run_file_comes_with_the_task(module: Any) -> None:
    name = module.__name__.rpartition(".")[2]
    run = tomllib.loads((RUNS / f"{name}.toml").read_text())["run"]
    assert run["name"] == name
    path, _, function = run["task"].partition(":")
    assert getattr(import_module(path), function) is module.make_task


def test_the_mnist1d_host_has_858_parameters() -> None:
    model = mnist1d.make_task().model
    assert sum(weight.numel() for weight in model.parameters()) == 858


def test_mnist1d_keeps_the_package_s_own_test_split() -> None:
    one, other = (splits(mnist1d.make_task(seed=seed)) for seed in (0, 1))
    assert [len(loader.inputs) for loader in one] == [3200, 800, 1000]
    assert torch.equal(one[2].inputs, other[2].inputs)


@pytest.mark.parametrize(
    ("module", "epochs", "floor"), [(digits, 6, 0.5), (mnist1d, 5, 0.35), (mnist5k, 3, 0.4)]
)
def test_the_host_learns_well_above_chance(module: Any, epochs: int, floor: float) -> None:
    task = module.make_task()
    assert score(task) < 0.25
    train(task, epochs)
    assert score(task) > floor


def test_a_wide_digits_host_leaves_little_room() -> None:
    task = digits.make_task(width=32, depth=3, learning_rate=3e-3)
    train(task, 5)
    assert score(task) > 0.93


def test_the_character_transformer_beats_the_frequencies_of_characters() -> None:
    task = shakespeare.make_task(train_size=1024)
    validation = splits(task)[1]
    frequencies = torch.bincount(splits(task)[0].targets.flatten(), minlength=84) + 1.0
    baseline = -(frequencies / frequencies.sum()).log()[validation.targets].mean().item()
    train(task, 3)
    with torch.no_grad():
        loss = task.loss(task.model(validation.inputs), validation.targets).item()
    assert loss < baseline - 0.2
    assert math.isfinite(loss)


def test_the_character_transformer_does_not_see_the_future() -> None:
    model = shakespeare.make_task().model.eval()
    inputs = torch.randint(0, 84, (2, 32), generator=torch.Generator().manual_seed(0))
    changed = inputs.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % 84
    with torch.no_grad():
        before, after = model(inputs), model(changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20:], after[:, 20:])


def test_shakespeare_s_splits_share_no_play() -> None:
    plays = shakespeare.load_plays()
    train_text, validation_text, test_text = shakespeare._deal_plays(seed=5)
    for play in plays:
        assert sum(play in text for text in (train_text, validation_text, test_text)) == 1


def test_targets_of_shakespeare_are_the_inputs_shifted_by_one() -> None:
    split = shakespeare._sequences("Now is the winter of our discontent", 8)
    assert split.inputs.shape == (4, 8)
    assert torch.equal(split.inputs.flatten()[1:], split.targets.flatten()[:-1])


def test_partition_refuses_more_than_there_is() -> None:
    samples = Split(torch.zeros(5), torch.zeros(5))
    with pytest.raises(ValueError, match="need 6, there are 5"):
        partition(samples, (3, 3), seed=0)
    with pytest.raises(ValueError, match="at least one sample"):
        partition(samples, (5, 0), seed=0)


def test_hosts_are_plain_modules() -> None:
    assert all(isinstance(module.make_task().model, nn.Module) for module in TASKS)
