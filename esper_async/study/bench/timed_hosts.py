"""Hosts large enough to time: what each is, a batch for it, its loss, and a loop by hand."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esper_async.tasks.images import ImageHost
from esper_async.tasks.shakespeare import CharacterTransformer, sequence_cross_entropy

Batch = tuple[Tensor, Tensor]
RATE = 1e-3
_ALPHABET, _LENGTH = 64, 64


@dataclass(frozen=True, slots=True)
class TimedHost:
    """A host to time, a batch for it of so many samples, and how many steps make a lap."""

    name: str
    model: Callable[[], nn.Module]
    batch: Callable[[int, torch.Generator], Batch]
    loss: Callable[[Tensor, Tensor], Tensor]
    batch_size: int
    lap_steps: int

    def lap(self, generator: torch.Generator) -> list[Batch]:
        """Draw the batches of a lap."""
        return [self.batch(self.batch_size, generator) for _ in range(self.lap_steps)]


class LoopByHand:
    """The loop that a user would have written, over a copy of the host."""

    def __init__(self, host: TimedHost, model: nn.Module, *, epochs: int) -> None:
        self.model = copy.deepcopy(model)
        self._loss = host.loss
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, T_max=epochs)

    def train(self, batches: Iterable[Batch]) -> None:
        """Train on each batch once."""
        for inputs, targets in batches:
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._loss(self.model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()

    def end_epoch(self) -> None:
        """Let the learning rate go on by one epoch."""
        self._schedule.step()

    def validate(self, batches: list[Batch]) -> float:
        """Return the loss by sample."""
        self.model.eval()
        total, count = torch.zeros(()), 0
        with torch.no_grad():
            for inputs, targets in batches:
                total += self._loss(self.model(inputs), targets) * len(targets)
                count += len(targets)
        self.model.train()
        return float(total) / count


def _images(size: int, generator: torch.Generator) -> Batch:
    images = torch.randn(size, 1, 28, 28, generator=generator)
    return images, torch.randint(0, 10, (size,), generator=generator)


def _characters(size: int, generator: torch.Generator) -> Batch:
    text = torch.randint(0, _ALPHABET, (size, _LENGTH + 1), generator=generator)
    return text[:, :-1], text[:, 1:]


def _features(size: int, generator: torch.Generator) -> Batch:
    features = torch.randn(size, 64, generator=generator)
    return features, torch.randint(0, 10, (size,), generator=generator)


def _rows(size: int, generator: torch.Generator) -> Batch:
    rows = torch.randn(size, 256, generator=generator)
    return rows, torch.randint(0, 10, (size,), generator=generator)


CONV = TimedHost(
    "conv net",
    lambda: ImageHost(24, depth=2, kernel_size=5, stride=2, pooled=2, classes=10),
    _images,
    nn.functional.cross_entropy,
    batch_size=64,
    lap_steps=6,
)
TRANSFORMER = TimedHost(
    "transformer",
    lambda: CharacterTransformer(_ALPHABET, length=_LENGTH, width=48, heads=4, depth=1),
    _characters,
    sequence_cross_entropy,
    batch_size=16,
    lap_steps=6,
)
PERCEPTRON = TimedHost(
    "MLP",
    lambda: nn.Sequential(
        nn.Linear(64, 192), nn.ReLU(), nn.Linear(192, 192), nn.ReLU(), nn.Linear(192, 10)
    ),
    _features,
    nn.functional.cross_entropy,
    batch_size=32,
    lap_steps=60,
)
"""A perceptron of 51 466 parameters."""

WIDE = TimedHost(
    "dense net",
    lambda: nn.Sequential(
        nn.Linear(256, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(),
        nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 512), nn.ReLU(), nn.Linear(512, 10),
    ),
    _rows,
    nn.functional.cross_entropy,
    batch_size=8,
    lap_steps=36,
)  # fmt: skip
"""Ten million parameters: what a checkpoint of 120 MB with Adam's state is taken of."""
