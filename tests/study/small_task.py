"""A task that trains in a moment, with room to grow; and one that goes wrong as it is told."""

import os
import signal
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from esper_async import Task
from esper_async.tasks.recipe import scheduler_of


class Net(nn.Module):
    """Features (N, 6) to logits (N, 3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, width), nn.ReLU())
        self.head = nn.Linear(width, 3)

    def forward(self, inputs):
        return self.head(self.first(inputs))


def accuracy(output, target):
    return (output.argmax(1) == target).float()


def make_task(
    seed: int = 0, width: int = 4, learning_rate: float = 1e-2, schedule: str = "cosine"
) -> Task:
    if width % 2:
        from esper_async.tolaria.task import TaskError

        raise TaskError("the width is even")
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(160, 6, generator=generator)
    labels = (inputs[:, 0] * inputs[:, 1] > 0).long() + (inputs[:, 2] > 1).long()
    torch.manual_seed(seed)
    model = Net(width)
    parts = [TensorDataset(inputs[a:b], labels[a:b]) for a, b in ((0, 96), (96, 128), (128, 160))]
    train = DataLoader(parts[0], batch_size=32, shuffle=True)
    held_out = [DataLoader(part, batch_size=32) for part in parts[1:]]
    return Task(
        model=model, train_loader=train, validation_loader=held_out[0], test_loader=held_out[1],
        loss=F.cross_entropy, metrics={"accuracy": accuracy}, primary_metric="accuracy",
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=learning_rate), name="small",
        scheduler=scheduler_of(schedule),
    )  # fmt: skip


def make_mortal(marker: str, seed: int = 0, learning_rate: float = 1e-2) -> Task:
    """The first time that it is made with seed 1, its process dies."""
    path = Path(marker)
    if seed == 1 and not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return make_task(seed, learning_rate=learning_rate)


def make_broken(seed: int = 0, learning_rate: float = 1e-2) -> Task:
    if seed == 1:
        raise RuntimeError("seed 1 is broken")
    return make_task(seed, learning_rate=learning_rate)
