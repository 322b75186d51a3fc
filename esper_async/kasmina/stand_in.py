"""Stand-ins: other tensors in the places of a network's own parameters and buffers, for a pass.

What `torch.func.functional_call` does by names, done by the places themselves: a shadow pass stands
beside every second step, and looking up each name anew would cost it more than its own arithmetic
on a small host.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor


class Place(NamedTuple):
    """Where a module holds a tensor, and which one stands there instead."""

    holder: dict[str, Tensor | None]
    name: str
    tensor: Tensor


@contextmanager
def standing_in(places: Sequence[Place]) -> Iterator[None]:
    """Put every stand-in in its place for a block; afterwards the network holds its own again."""
    own = [holder[name] for holder, name, _ in places]
    try:
        for holder, name, tensor in places:
            holder[name] = tensor
        yield
    finally:
        for (holder, name, _), original in zip(places, own, strict=True):
            holder[name] = original
