"""A task whose host has no room by construction: it starts as the very net that draws the labels.

Inputs are noise, labels are drawn from a net's class probabilities, every batch is new. The host
is a copy of that net, so its expected loss is the conditional entropy of the labels, and no
network, of any size, has a lower one. Training can only jitter about this limit.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esper_async.tasks.mnist1d import SignalNet
from esper_async.tasks.mnist1d_data import LENGTH
from esper_async.tasks.recipe import Schedule, accuracy, adam, scheduler_of
from esper_async.tasks.seeding import Stream, derive_seed, seeded_initialisation
from esper_async.tasks.tensor_loader import TensorLoader
from esper_async.tolaria.task import Task

BATCH_SIZE, BATCHES = 100, 32
VALIDATION_SIZE, TEST_SIZE = 4_000, 20_000
LOGIT_SPREAD = 2.0
"""Standard deviation of the logits: classes overlap, and their probabilities are far from equal."""


@dataclass(frozen=True, slots=True)
class KnownLimit:
    """The task, and the loss on its test split, in nats, of the net that drew the labels."""

    task: Task
    test_loss: float


class FreshBatches:
    """Yields `count` new (input, label) batches each time it is iterated."""

    def __init__(self, source: nn.Module, count: int, size: int, generator: torch.Generator):
        self.source, self.count, self.size, self.generator = source, count, size, generator

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return self.count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw an epoch."""
        for _ in range(self.count):
            yield draw(self.source, self.size, self.generator)


@torch.no_grad()
def draw(source: nn.Module, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return signals (count, 1, 40) of noise and labels (count,) drawn from `source`'s softmax."""
    signals = torch.randn(count, 1, LENGTH, generator=generator)
    labels = torch.multinomial(source(signals).softmax(1), 1, generator=generator)
    return signals, labels.squeeze(1)


def make_known_limit(seed: int, *, learning_rate: float, schedule: Schedule) -> KnownLimit:
    """Build the task; `seed` varies the net, the held-out samples and the batches together."""
    with seeded_initialisation(seed):
        source = SignalNet(width=8, depth=1)
    held_out = _generator(seed, Stream.SPLIT)
    _spread_logits(source, held_out)
    validation = draw(source, VALIDATION_SIZE, held_out)
    signals, labels = draw(source, TEST_SIZE, held_out)
    with torch.no_grad():
        limit = nn.functional.cross_entropy(source(signals), labels).item()
    task = Task(
        name="known limit",
        model=copy.deepcopy(source),
        train_loader=FreshBatches(source, BATCHES, BATCH_SIZE, _generator(seed, Stream.ORDER)),
        validation_loader=TensorLoader(*validation, batch_size=1000),
        test_loader=TensorLoader(signals, labels, batch_size=1000),
        loss=nn.functional.cross_entropy,
        metrics={"accuracy": accuracy},
        primary_metric="accuracy",
        optimizer=lambda parameters: adam(parameters, learning_rate=learning_rate),
        scheduler=scheduler_of(schedule),
    )
    return KnownLimit(task, limit)


def _generator(seed: int, stream: Stream) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, stream))


@torch.no_grad()
def _spread_logits(source: SignalNet, generator: torch.Generator) -> None:
    signals = torch.randn(1000, 1, LENGTH, generator=generator)
    scale = LOGIT_SPREAD / source(signals).std()
    source.head.weight.mul_(scale)
    source.head.bias.mul_(scale)
