"""A small transformer that reads a digit row by row; its batches are dictionaries."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from esper_async import Task

Batch = dict[str, torch.Tensor]


class RowReader(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(torch.zeros(8, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.1, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(rows) + self.position).mean(1))


def make_task(width: int = 8) -> Task:
    digits = load_digits()
    rows = torch.tensor(digits.images, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)

    def batches(first: int, last: int) -> list[Batch]:
        starts = range(first, last, 50)
        return [{"rows": rows[s : s + 50], "labels": labels[s : s + 50]} for s in starts]

    def forward(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return model(batch["rows"]), batch["labels"]

    return Task(
        model=RowReader(width, heads=2),
        train_loader=batches(0, 600),
        validation_loader=batches(600, 800),
        loss=nn.functional.cross_entropy,
        forward=forward,
    )
