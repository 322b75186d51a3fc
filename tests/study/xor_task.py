"""A task that a linear host cannot learn, and that a seed with a nonlinearity can."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from esper_async import Task


class Linear(nn.Module):
    """Features (N, 2) to logits (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, inputs):
        return self.head(self.first(inputs))


def make_task(seed: int = 0, learning_rate: float = 3e-2) -> Task:
    """Tell whether two numbers have the same sign."""
    torch.manual_seed(seed)
    inputs = torch.randn(384, 2)
    labels = (inputs[:, 0] * inputs[:, 1] > 0).long()
    model = Linear()
    train = DataLoader(TensorDataset(inputs[:256], labels[:256]), batch_size=32, shuffle=True)
    held_out = DataLoader(TensorDataset(inputs[256:], labels[256:]), batch_size=128)
    return Task(
        model=model, train_loader=train, validation_loader=held_out, loss=F.cross_entropy,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=learning_rate), name="xor",
    )  # fmt: skip
