"""Batches of tensors that are already in memory, in an order that can be resumed.

A `DataLoader` over a `TensorDataset` gathers sample by sample and collates, about a millisecond
a batch of 64, which is more than a step of the hosts here takes. Two gathers do the same.
"""

import math
from collections.abc import Iterator, Mapping

from torch import Tensor

from esper_async.tasks.seeding import derive_seed, permutation


class TensorLoader:
    """Yields (input, target) batches and never drops the last, partial one.

    The order of epoch e is a function of (seed, e) alone. An epoch ends when its iterator is
    exhausted; one that is broken off starts over from its first batch, so that looking at a
    batch does not change what training sees. `state_dict` and `load_state_dict` carry the epoch
    and the number of batches delivered; the next iteration after a load goes on there.
    Not safe to iterate from several threads at once.
    """

    def __init__(
        self, inputs: Tensor, targets: Tensor, *, batch_size: int, seed: int | None = None
    ) -> None:
        """Hold `inputs` (N, ...) and `targets` (N, ...); shuffle if there is a `seed`.

        Raises:
            ValueError: no samples, differing counts, or a batch size below 1.
        """
        if len(inputs) != len(targets):
            raise ValueError(f"{len(inputs)} inputs but {len(targets)} targets")
        if len(inputs) == 0:
            raise ValueError("there are no samples to load")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.inputs = inputs
        self.targets = targets
        self.batch_size = batch_size
        self.seed = seed
        self._epoch = 0
        self._position = 0
        self._resume_at = 0

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return math.ceil(len(self.inputs) / self.batch_size)

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration delivers, counted from 0."""
        return self._epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Deliver the rest of the current epoch, then advance to the next one."""
        order = self._order(self._epoch)
        first, self._resume_at = self._resume_at, 0
        self._position = first
        for index in range(first, len(self)):
            start = index * self.batch_size
            chosen = None if order is None else order[start : start + self.batch_size]
            self._position = index + 1
            if chosen is None:
                stop = start + self.batch_size
                yield self.inputs[start:stop], self.targets[start:stop]
            else:
                yield self.inputs[chosen], self.targets[chosen]
        self._epoch += 1
        self._position = 0

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and how many of its batches were delivered."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Make the next iteration go on where `state` was taken.

        Raises:
            KeyError: a field is missing.
            ValueError: the position lies outside the epoch.
        """
        epoch, position = state["epoch"], state["position"]
        if epoch < 0 or not 0 <= position <= len(self):
            raise ValueError(f"no batch {position} of {len(self)} in epoch {epoch}")
        self._epoch = epoch
        self._position = self._resume_at = position

    def _order(self, epoch: int) -> Tensor | None:
        if self.seed is None:
            return None
        return permutation(len(self.inputs), derive_seed(self.seed, epoch))
