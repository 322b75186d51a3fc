"""Handwritten digits, 8 x 8, that come with scikit-learn: the default run."""

from functools import cache

import torch

from esper_async.tasks.extras import MissingDataError
from esper_async.tasks.images import ImageHost
from esper_async.tasks.recipe import Schedule, classification_task
from esper_async.tasks.seeding import seeded_initialisation
from esper_async.tasks.splits import Split, make_loaders, partition
from esper_async.tolaria.task import Task

CLASSES = 10
COUNT = 1797


@cache
def load_digits() -> Split:
    """Read the 1 797 images (N, 1, 8, 8), centred and scaled, and their labels (N,).

    Raises:
        MissingDataError: scikit-learn does not carry the data set it should.
    """
    from sklearn.datasets import load_digits as read_digits  # half a second to import

    bunch = read_digits()
    if bunch.images.shape != (COUNT, 8, 8):
        raise MissingDataError(
            f"scikit-learn's digits are {bunch.images.shape}, expected {(COUNT, 8, 8)}; "
            "reinstall scikit-learn"
        )
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1)
    return Split((images - 8.0) / 8.0, torch.tensor(bunch.target, dtype=torch.int64))


def make_task(
    *,
    seed: int = 0,
    width: int = 4,
    depth: int = 1,
    batch_size: int = 32,
    learning_rate: float = 1e-2,
    schedule: Schedule = "cosine",
    train_size: int = 1197,
    validation_size: int = 300,
    test_size: int = 300,
) -> Task:
    """Build the task; `seed` varies initialisation, split and order together.

    The host has 210 parameters at the default width and depth; at width 32 and depth 3 it has
    little room left to grow.

    Raises:
        ValueError: the sizes exceed the 1 797 images.
    """
    sizes = (train_size, validation_size, test_size)
    train, validation, test = partition(load_digits(), sizes, seed=seed)
    with seeded_initialisation(seed):
        model = ImageHost(width, depth=depth, kernel_size=3, stride=1, pooled=2, classes=CLASSES)
    loaders = make_loaders(train, validation, test, batch_size=batch_size, seed=seed)
    return classification_task(
        "digits", model, loaders, learning_rate=learning_rate, schedule=schedule
    )
