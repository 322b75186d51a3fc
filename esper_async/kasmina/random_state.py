"""Random streams: each owner of randomness draws from its own, and leaves the others alone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def fresh_stream(*parts: int | str) -> Tensor:
    """Return the state (bytes) of a CPU generator seeded by `parts`, the same for the same parts.

    The global generators are not touched.
    """
    digest = 0xCBF29CE484222325
    for byte in "/".join(map(str, parts)).encode():
        digest = ((digest ^ byte) * 0x100000001B3) % 2**64
    generator = torch.Generator()
    generator.manual_seed(digest % 2**63)
    return generator.get_state()


class RandomStream:
    """One owner's stream of random numbers, kept apart from the global one.

    `with stream.active():` draws from it; the global CPU and CUDA states are restored on exit, also
    when the body raises. A GPU's numbers hang on the CPU's: its generator is seeded anew by a draw
    at each entry, so that `state` is all there is to save.

    Python's and NumPy's global generators, from which a host may draw in its forward pass, have no
    stream: they go on from where they are, and are put back as well.
    """

    def __init__(self, state: Tensor) -> None:
        self.state = state

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this the global stream for the length of a block."""
        outside = torch.get_rng_state()
        pythons, numpys = random.getstate(), np.random.get_state()
        cuda = _initialised()
        outside_cuda = torch.cuda.get_rng_state() if cuda else None
        torch.set_rng_state(self.state)
        if outside_cuda is not None:
            torch.cuda.manual_seed(int(torch.randint(2**62, ())))
        try:
            yield
        finally:
            self.state = torch.get_rng_state()
            torch.set_rng_state(outside)
            random.setstate(pythons)
            np.random.set_state(numpys)
            if outside_cuda is not None:
                torch.cuda.set_rng_state(outside_cuda)


class SharedRandomness:
    """The same random numbers for each of several computations that are compared.

    Call `rewind` before each of them; on exit the global streams are where the first left them.
    """

    def __init__(self) -> None:
        self._start: list[Tensor] | None = None
        self._after_first: list[Tensor] | None = None

    def __enter__(self) -> "SharedRandomness":
        return self

    def rewind(self) -> None:
        """Put the global streams back to where they were before the first computation."""
        if self._start is None:
            self._start = global_states()
            return
        if self._after_first is None:
            self._after_first = global_states()
        _set_global_states(self._start)

    def __exit__(self, *exception: object) -> None:
        if self._after_first is not None:
            _set_global_states(self._after_first)


def global_states() -> list[Tensor]:
    """Return the states of the global generators: the CPU's, and CUDA's where it is in use."""
    cuda = _initialised()
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if cuda else [])]


def _set_global_states(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])


def _initialised() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
