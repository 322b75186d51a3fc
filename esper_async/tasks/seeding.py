"""One task seed, several independent random streams."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What a random stream is for; the number is part of what makes a run repeatable."""

    INITIALISATION = 0
    SPLIT = 1
    ORDER = 2


def derive_seed(seed: int, *path: int) -> int:
    """Return a 63-bit seed that depends on `seed` and every number of `path`."""
    if seed < 0 or any(number < 0 for number in path):
        raise ValueError(f"seeds are non-negative, got {(seed, *path)}")
    state = np.random.SeedSequence([seed, *path]).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def permutation(count: int, seed: int) -> torch.Tensor:
    """Return a permutation of 0..count-1 as int64 (count,), from a stream of its own."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)


@contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Seed torch for building a model, and leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, Stream.INITIALISATION))
        yield
