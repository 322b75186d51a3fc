"""MNIST-1D on a host that is too small for it: the task that shows whether growing helps."""

import torch
from torch import Tensor, nn

from esper_async.tasks.mnist1d_data import (
    CLASSES,
    LENGTH,
    TEST_COUNT,
    load_mnist1d,
)
from esper_async.tasks.recipe import Schedule, classification_task
from esper_async.tasks.seeding import seeded_initialisation
from esper_async.tasks.splits import Split, make_loaders, partition
from esper_async.tolaria.task import Task


class SignalNet(nn.Module):
    """Convolutions, a pool and a linear head; 858 parameters at width 8 and depth 1.

    The activation (N, width, 20) after the convolutions is where depth is missing; (N, width, 10)
    after the pool is the other place to grow.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.stem = _stage(1, width, stride=2)
        self.stages = nn.Sequential(*(_stage(width, width, stride=1) for _ in range(depth - 1)))
        self.pool = nn.MaxPool1d(2)
        self.features = nn.Flatten()
        self.head = nn.Linear(width * LENGTH // 4, CLASSES)

    def forward(self, signals: Tensor) -> Tensor:
        """Map signals (N, 1, 40) to logits (N, 10)."""
        hidden = self.pool(self.stages(self.stem(signals)))  # (N, width, 10)
        logits: Tensor = self.head(self.features(hidden))
        return logits


def _stage(channels: int, width: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(channels, width, kernel_size=5, stride=stride, padding=2), nn.ReLU()
    )


def make_task(
    *,
    seed: int = 0,
    width: int = 8,
    depth: int = 1,
    batch_size: int = 100,
    learning_rate: float = 1e-2,
    schedule: Schedule = "cosine",
    train_size: int = 3200,
    validation_size: int = 800,
    test_size: int = TEST_COUNT,
) -> Task:
    """Build the task; `seed` varies initialisation, split and order together.

    The host has 858 parameters at the default width and depth; at width 24 and depth 4 it has
    little room left to grow. Training and validation samples are drawn from the package's 4 000
    training signals; the test split is its own, always the same.

    Raises:
        MissingExtraError: the `tasks` extra is not installed.
        ValueError: a size is out of range.
    """
    data = load_mnist1d()
    training = _as_split(data.train_signals, data.train_labels)
    train, validation = partition(training, (train_size, validation_size), seed=seed)
    if not 1 <= test_size <= TEST_COUNT:
        raise ValueError(f"test_size must lie in 1..{TEST_COUNT}, not {test_size}")
    test = _as_split(data.test_signals[:test_size], data.test_labels[:test_size])
    with seeded_initialisation(seed):
        model = SignalNet(width, depth)
    loaders = make_loaders(train, validation, test, batch_size=batch_size, seed=seed)
    return classification_task(
        "mnist1d", model, loaders, learning_rate=learning_rate, schedule=schedule
    )


def _as_split(signals: object, labels: object) -> Split:
    inputs = torch.tensor(signals, dtype=torch.float32)
    return Split(inputs.view(-1, 1, LENGTH), torch.tensor(labels))
