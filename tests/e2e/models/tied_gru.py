"""A recurrent regression: the next value of a noisy wave, with a weight that two layers share."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from esper_async import Task


class TiedRecurrent(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.lift = nn.Linear(1, width)
        self.read = nn.Linear(width, width)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.write = nn.Linear(width, width)
        self.write.weight = self.read.weight  # tied
        self.head = nn.Linear(width, 1)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        states, _ = self.recurrent(torch.tanh(self.read(self.lift(series))))
        return self.head(torch.tanh(self.write(states[:, -1]))).squeeze(1)


def waves(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    phase, pace = torch.rand(count, 1) * 6.28, 0.2 + 0.6 * torch.rand(count, 1)
    values = torch.sin(phase + pace * torch.arange(13)) + 0.05 * torch.randn(count, 13)
    return values[:, :12, None], values[:, 12]


def make_task(width: int = 6) -> Task:
    train, validation, test = (TensorDataset(*waves(count)) for count in (400, 150, 150))
    return Task(
        model=TiedRecurrent(width),
        train_loader=DataLoader(train, batch_size=40, shuffle=True),
        validation_loader=DataLoader(validation, batch_size=150),
        test_loader=DataLoader(test, batch_size=150),
        loss=nn.functional.mse_loss,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    )
