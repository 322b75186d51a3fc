"""Small hosts with everything that makes isolation hard: batch statistics, dropout, attention."""

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


class ConvHost(nn.Module):
    """Convolutions with batch norm and dropout, over images (N, 1, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 1, 8, 8) to logits (N, 10)."""
        hidden = self.drop(self.second(self.first(images)))
        logits: Tensor = self.head(hidden.mean((2, 3)))
        return logits


class TransformerHost(nn.Module):
    """One attention layer with dropout, over sequences (N, 8, 8) of image rows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.block = nn.TransformerEncoderLayer(
            16, 4, dim_feedforward=32, dropout=0.1, batch_first=True
        )
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 1, 8, 8), row by row, to logits (N, 10)."""
        hidden = self.block(self.embed(images.squeeze(1)))
        logits: Tensor = self.head(hidden.mean(1))
        return logits


class DenseHost(nn.Module):
    """Two dense layers with batch norm and dropout, over the pixels of images (N, 1, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 1, 8, 8) to logits (N, 10)."""
        hidden = self.drop(self.second(self.first(images.flatten(1))))
        logits: Tensor = self.head(hidden)
        return logits


HOSTS: dict[str, type[nn.Module]] = {
    "conv host": ConvHost,
    "transformer host": TransformerHost,
    "dense host": DenseHost,
}


def batches(count: int, *, size: int = 32, seed: int = 0) -> list[Batch]:
    """Draw batches of images (size, 1, 8, 8) with labels (size,) that depend on them."""
    generator = torch.Generator().manual_seed(seed)
    templates = torch.randn(10, 1, 8, 8, generator=generator)
    drawn = []
    for _ in range(count):
        labels = torch.randint(0, 10, (size,), generator=generator)
        noise = torch.randn(size, 1, 8, 8, generator=generator)
        drawn.append((templates[labels] + noise, labels))
    return drawn
