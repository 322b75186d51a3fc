"""A resumed run sees the very batches that it would have seen."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from esper_async.tasks.tensor_loader import TensorLoader
from esper_async.tolaria import global_random
from esper_async.tolaria.epoch_loader import EpochLoader
from esper_async.tolaria.task import TaskError

ROWS = torch.arange(10.0)


class Augmented:
    """A loader that draws from every global stream while it goes."""

    def __iter__(self) -> Iterator[Any]:
        for index in torch.randperm(10).tolist():
            yield ROWS[index] + torch.rand(()) + random.random() + float(np.random.rand())


def own_generator() -> Any:
    generator = torch.Generator().manual_seed(5)
    return DataLoader(TensorDataset(ROWS), batch_size=1, shuffle=True, generator=generator)


LOADERS: dict[str, Any] = {
    "list": lambda: list(ROWS),
    "shuffled": lambda: DataLoader(TensorDataset(ROWS), batch_size=3, shuffle=True),
    "own generator": own_generator,
    "workers' seed": lambda: DataLoader(TensorDataset(ROWS), batch_size=4),
    "stateful": lambda: TensorLoader(ROWS, ROWS, batch_size=3, seed=4),
    "augmented": Augmented,
}


def numbers(batch: Any) -> list[float]:
    tensor = batch[0] if isinstance(batch, list | tuple) else batch
    return [float(value) for value in tensor.reshape(-1)]


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 4, 7, 13])
@pytest.mark.parametrize("name", LOADERS)
def test_a_resumed_loader_yields_what_the_other_would_have(name: str, stop: int) -> None:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    uninterrupted = EpochLoader(LOADERS[name]())
    iterator = steps(uninterrupted)
    for _ in range(stop):
        next(iterator)
    position, streams = uninterrupted.state_dict(), global_random.capture()
    expected = [next(iterator) for _ in range(12)]

    torch.manual_seed(77)
    resumed = EpochLoader(LOADERS[name]())
    resumed.load_state_dict(position)
    global_random.restore(streams)
    again = steps(resumed)
    assert [next(again) for _ in range(12)] == expected


def steps(loader: EpochLoader) -> Iterator[list[float]]:
    while True:
        for batch in loader.steps():
            torch.rand(3)  # the training step draws too
            yield numbers(batch)


def test_epochs_and_batches_are_counted() -> None:
    loader = EpochLoader(list(ROWS))
    seen = []
    for _ in range(2):
        for _ in loader.steps():
            seen.append((loader.epoch, loader.batch))
    assert seen[0] == (0, 1)
    assert seen[-1] == (1, 10)
    assert (loader.epoch, loader.batch) == (2, 0)


def test_a_loader_that_yields_nothing_is_an_error_with_a_remedy() -> None:
    with pytest.raises(TaskError, match="give a list, a DataLoader, or"):
        list(EpochLoader([]).steps())


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_that_repeats_itself_is_known_and_left_as_it_was(name: str) -> None:
    torch.manual_seed(1)
    loader = EpochLoader(LOADERS[name]())
    before = torch.get_rng_state()
    assert loader.repeats(3)
    assert torch.equal(before, torch.get_rng_state())
    assert [each.tolist() for each in loader.state_dict()["generators"]] == [
        each.tolist() for each in EpochLoader(LOADERS[name]()).state_dict()["generators"]
    ]


def test_a_loader_that_does_not_repeat_itself_is_known() -> None:
    class Counted:
        turn = 0

        def __iter__(self) -> Iterator[Any]:
            self.turn += 1
            yield ROWS[self.turn]

    assert not EpochLoader(Counted()).repeats(1)
