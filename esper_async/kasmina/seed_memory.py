"""Whether seeds fit: the bytes they take, against growth's share of the device's whole memory.

A seed takes its weights, their gradients, its optimizer's state, what its kernel keeps for the
backward pass of a batch, and its own copies of the host's buffers while it trains in shadow. The
passes themselves come one after the other, and after the host's own, whose memory they use.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper_async.kasmina.executor import Executor
from esper_async.kasmina.legal import LegalPair
from esper_async.kasmina.memory import twin_bytes
from esper_async.kasmina.planting import CommandRefusedError
from esper_async.kasmina.seed import Candidate, Seed
from esper_async.kasmina.sites import Site
from esper_async.kasmina.snapshot import bytes_in

_ADAMS_SHARE = 2.0
"""Bytes of optimizer state a byte of weights, before the host's optimizer has shown its own."""
_MB = 1e6


class SeedMemory:
    """What growth may take of memory, what it has taken, and what another seed would.

    Args:
        executor: knows the living seeds, the twin, and the budget that the run began with.
        batch_size: samples of a batch.
        buffer_bytes: what `bytes_of_buffers` returns, where known.
    """

    def __init__(
        self, executor: Executor, batch_size: int, *, buffer_bytes: int | None = None
    ) -> None:
        self._executor = executor
        self._batch_size = batch_size
        self._state_share = _state_share(executor)
        self._buffers = bytes_of_buffers(executor) if buffer_bytes is None else buffer_bytes

    def taken(self) -> int:
        """Return the bytes of the seeds that live, and of a twin."""
        trial = self._executor.trial
        twin = twin_bytes(trial.twin) if trial is not None and trial.has_twin else 0
        living = [seed for seed in self._executor.seeds.values() if not seed.ended]
        return twin + sum(map(self._held, living))

    def left(self) -> int:
        """Return the bytes that growth may still take."""
        return max(self._executor.twin_budget_bytes - self.taken(), 0)

    def needed(self, pair: LegalPair) -> int:
        """Return the bytes of a seed of this kind while it trains in shadow."""
        weights = pair.parameters * _dtype(pair.site).itemsize
        return self._lasting(weights) + self._buffers + pair.saved_bytes * self._batch_size

    def needed_each(
        self, weight_bytes: NDArray[np.int64], saved_bytes: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the same (P,) for many seeds at once, by the bytes of their weights (P,) and by
        what a sample's forward pass keeps of each (P,).
        """
        lasting = (weight_bytes * (2.0 + self._state_share)).astype(np.int64)
        found: NDArray[np.int64] = lasting + self._buffers + saved_bytes * self._batch_size
        return found

    def check(self, candidates: Sequence[Candidate], legal: Sequence[LegalPair]) -> None:
        """Refuse a tournament for which there is not enough.

        Raises:
            CommandRefusedError: what it needs, and what there is.
        """
        known = {(pair.site.name, pair.blueprint): pair for pair in legal}
        wanted = [known.get((each.site, each.blueprint)) for each in candidates]
        needed = sum(self.needed(pair) for pair in wanted if pair is not None)
        left = self.left()
        if needed > left:
            budget, taken = self._executor.twin_budget_bytes, self.taken()
            raise CommandRefusedError(
                f"{len(candidates)} candidates need {needed / _MB:.1f} MB (weights, gradients, "
                f"optimizer state, activations of {self._batch_size} samples, the host's buffers); "
                f"of the {budget / _MB:.1f} MB that growth may take, {taken / _MB:.1f} MB are taken"
            )

    def _held(self, seed: Seed) -> int:
        weights = seed.parameter_count * _dtype(seed.site).itemsize
        return self._lasting(weights) + bytes_in(seed.buffers)

    def _lasting(self, weights: int) -> int:
        return int(weights * (2.0 + self._state_share))


def bytes_of_buffers(executor: Executor) -> int:
    """Return the bytes of the model's buffers, with those of what has grown in it."""
    return sum(buffer.nbytes for buffer in executor.branch.model.buffers())


def _dtype(site: Site) -> torch.dtype:
    found: torch.dtype = getattr(torch, site.interface.dtype)
    return found


def _state_share(executor: Executor) -> float:
    """Return the bytes of optimizer state a byte of weights, as the host's largest has it."""
    state = executor.branch.optimizer.state
    largest = max(state, key=Tensor.numel, default=None)
    if largest is None:
        return _ADAMS_SHARE
    return bytes_in(dict(state[largest])) / bytes_in(largest)
