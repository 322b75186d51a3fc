"""A null treatment: the same samples with labels dealt anew, so that there is nothing to learn."""

import dataclasses
from typing import Any

import torch

from esper_async.tasks.tensor_loader import TensorLoader
from esper_async.tolaria.task import Task, TaskError


def with_shuffled_labels(task: Task, *, seed: int) -> Task:
    """Return a task whose labels are dealt anew among the samples of each split.

    A label is as frequent as it was, and says nothing of its sample: what scores better on the test
    split than another does so by chance.

    Raises:
        TaskError: a split is not held in memory, in a `TensorLoader`.
    """
    generator = torch.Generator().manual_seed(seed)
    test = task.test_loader
    return dataclasses.replace(
        task,
        train_loader=_shuffled(task.train_loader, "train_loader", generator),
        validation_loader=_shuffled(task.validation_loader, "validation_loader", generator),
        test_loader=None if test is None else _shuffled(test, "test_loader", generator),
    )


def _shuffled(loader: Any, name: str, generator: torch.Generator) -> TensorLoader:
    if not isinstance(loader, TensorLoader):
        raise TaskError(
            f"{name} is a {type(loader).__name__}; labels are shuffled in a TensorLoader, "
            f"as esper_async.tasks.splits.make_loaders returns them"
        )
    order = torch.randperm(len(loader.targets), generator=generator)
    return TensorLoader(
        loader.inputs, loader.targets[order], batch_size=loader.batch_size, seed=loader.seed
    )
