"""A small convolutional net on handwritten digits, with batch normalisation and dropout."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from esper_async import Task


class ConvNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.block = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU())
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width * 16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        activations = self.block(torch.relu(self.norm(self.stem(images))))
        return self.head(self.drop(activations).flatten(1))


def make_task(width: int = 4) -> Task:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)

    def loader(first: int, last: int, *, shuffle: bool = False) -> DataLoader:
        part = TensorDataset(images[first:last], labels[first:last])
        return DataLoader(part, batch_size=50, shuffle=shuffle)

    return Task(
        model=ConvNet(width),
        train_loader=loader(0, 600, shuffle=True),
        validation_loader=loader(600, 800),
        test_loader=loader(800, 1000),
        loss=nn.CrossEntropyLoss(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        clip_norm=1.0,
    )
