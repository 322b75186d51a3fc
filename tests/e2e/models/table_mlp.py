"""A classifier of wines: a table of 13 columns, and an MLP as anyone would write it."""

import torch
from sklearn.datasets import load_wine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from esper_async import Task


class TableNet(nn.Module):
    def __init__(self, columns: int, width: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(columns, width),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(width, width),
            nn.ReLU(),
        )
        self.head = nn.Linear(width, classes)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(rows))


def accuracy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output.argmax(1) == target).float()


def make_task(width: int = 6) -> Task:
    wines = load_wine()
    rows = torch.tensor(wines.data, dtype=torch.float32)
    rows = (rows - rows.mean(0)) / rows.std(0)
    train, validation, test = random_split(
        TensorDataset(rows, torch.tensor(wines.target)), [108, 35, 35]
    )
    return Task(
        model=TableNet(13, width, 3),
        train_loader=DataLoader(train, batch_size=12, shuffle=True),
        validation_loader=DataLoader(validation, batch_size=35),
        test_loader=DataLoader(test, batch_size=35),
        loss=nn.functional.cross_entropy,
        metrics={"accuracy": accuracy},
        primary_metric="accuracy",
    )
