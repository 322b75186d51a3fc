"""Gradient accumulation: several batches that make one optimizer step."""

from collections.abc import Sequence
from typing import Any

from esper_async.kasmina.call import first_batch_size


class MicroBatches(tuple[Any, ...]):
    """The batches of one optimizer step; their gradients are averaged, a batch a share."""

    __slots__ = ()


def parts_of(batch: Any) -> tuple[Any, ...]:
    """Return the batches of a step: those of `MicroBatches`, or the one batch itself."""
    return batch if isinstance(batch, MicroBatches) else (batch,)


def step_of(batches: Sequence[Any]) -> Any:
    """Return the batches of a step as one: the only one itself, or all of them."""
    return batches[0] if len(batches) == 1 else MicroBatches(batches)


def step_size(batch: Any) -> int:
    """Return the number of samples in a step's batch or batches.

    Raises:
        BatchError: there is no tensor with a dimension in one of them.
    """
    if isinstance(batch, MicroBatches):
        return sum(map(first_batch_size, batch))
    return first_batch_size(batch)
