"""Three splits of a data set, and the loaders over them."""

from dataclasses import dataclass

from torch import Tensor

from esper_async.tasks.seeding import Stream, derive_seed, permutation
from esper_async.tasks.tensor_loader import TensorLoader

EVALUATION_BATCH = 500


@dataclass(frozen=True, slots=True)
class Split:
    """Inputs (N, ...) and targets (N, ...) of one part of a data set."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, slots=True)
class Loaders:
    """One loader a split; only the training one shuffles."""

    train: TensorLoader
    validation: TensorLoader
    test: TensorLoader


def partition(samples: Split, sizes: tuple[int, ...], *, seed: int) -> tuple[Split, ...]:
    """Draw disjoint parts of the given sizes; samples beyond their sum are left out.

    Raises:
        ValueError: a size is below 1, or there are fewer samples than asked for.
    """
    if min(sizes) < 1:
        raise ValueError(f"every split needs at least one sample, got sizes {sizes}")
    if sum(sizes) > len(samples):
        raise ValueError(f"splits of {sizes} samples need {sum(sizes)}, there are {len(samples)}")
    order = permutation(len(samples), derive_seed(seed, Stream.SPLIT))
    parts, start = [], 0
    for size in sizes:
        chosen = order[start : start + size]
        parts.append(Split(samples.inputs[chosen], samples.targets[chosen]))
        start += size
    return tuple(parts)


def make_loaders(
    train: Split, validation: Split, test: Split, *, batch_size: int, seed: int
) -> Loaders:
    """Build the loaders; `seed` fixes the order of every training epoch."""
    order = derive_seed(seed, Stream.ORDER)
    return Loaders(
        TensorLoader(train.inputs, train.targets, batch_size=batch_size, seed=order),
        TensorLoader(validation.inputs, validation.targets, batch_size=EVALUATION_BATCH),
        TensorLoader(test.inputs, test.targets, batch_size=EVALUATION_BATCH),
    )
