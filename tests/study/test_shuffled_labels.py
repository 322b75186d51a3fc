"""Shuffled labels: as many of each as before, and nothing that could be learned."""

import pytest
import torch

from esper_async.study.shuffled_labels import with_shuffled_labels
from esper_async.tasks.digits import make_task
from esper_async.tasks.tensor_loader import TensorLoader
from esper_async.tolaria.task import TaskError
from tests.study.small_task import make_task as make_small_task


def splits(seed: int) -> list[tuple[TensorLoader, TensorLoader]]:
    names = ("train_loader", "validation_loader", "test_loader")
    task = make_task(seed=0)
    shuffled = with_shuffled_labels(task, seed=seed)
    return [(getattr(task, name), getattr(shuffled, name)) for name in names]


def test_labels_are_as_frequent_as_they_were_and_no_longer_at_their_samples():
    for before, after in splits(seed=1):
        assert torch.equal(before.inputs, after.inputs)
        assert torch.equal(before.targets.bincount(), after.targets.bincount())
        still = float((before.targets == after.targets).float().mean())
        assert still < 0.2
        assert len(before) == len(after)


def test_a_seed_deals_them_always_alike():
    for (_, one), (_, same), (_, other) in zip(splits(1), splits(1), splits(2), strict=True):
        assert torch.equal(one.targets, same.targets)
        assert not torch.equal(one.targets, other.targets)


def test_samples_that_are_not_in_memory_are_refused():
    with pytest.raises(TaskError, match="train_loader is a DataLoader"):
        with_shuffled_labels(make_small_task(), seed=0)
