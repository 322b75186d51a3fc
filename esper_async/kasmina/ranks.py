"""Ranks: the processes that train one network together, and what they have to agree on.

Every rank trains a replica on its own batches. What is decided is decided on rank 0 and told to the
others; what is learned is learned from gradients averaged over all of them; so the replicas stay
bitwise equal, through every change of the network. A run in one process has one rank, and nothing
of this costs it anything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


class FirstRankError(RuntimeError):
    """Rank 0 raised where the other ranks waited for its answer; the message is what it raised."""


class RanksDifferError(RuntimeError):
    """The ranks do not hold the same; the message names what differs, and on which rank."""


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """How a value travels: as JSON values and a row of numbers (N,) in float64."""

    pack: Callable[[T], tuple[Any, Tensor]]
    unpack: Callable[[Any, Tensor], T]


def json_form(pack: Callable[[T], Any], unpack: Callable[[Any], T]) -> Form[T]:
    """Return the form of a value that travels as JSON values alone."""
    return Form(
        lambda value: (pack(value), torch.empty(0, dtype=torch.float64)),
        lambda content, _: unpack(content),
    )


class Ranks(Protocol):
    """The processes of a run. All of them call the same methods in the same order.

    Attributes:
        rank: which one this is; rank 0 evaluates, decides and saves.
        size: how many there are.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def wrap(self, model: nn.Module, *, synchronise: bool) -> nn.Module:
        """Return what is called in place of `model` where it is trained; it shares its tensors.

        With `synchronise` every rank takes over the weights of rank 0 first. The wrap knows the
        parameters of this moment: when there are others, retire it and ask for a new one.
        """
        ...

    def retire(self, wrap: nn.Module) -> None:
        """Let a forward pass through a wrap raise from now on."""
        ...

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the ranks, in place."""
        ...

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give every rank the values that the tensors have on rank 0, in place."""
        ...

    def from_first(self, work: Callable[[], T], form: Form[T]) -> T:
        """Do some work on rank 0 alone and return its result on every rank.

        Raises:
            FirstRankError: the work raised on rank 0, which raises what it raised.
        """
        ...

    def must_agree(self, facts: Mapping[str, str], remedy: str) -> None:
        """Compare what the ranks hold, by name; every rank raises if one of them differs.

        Raises:
            RanksDifferError: with what differs, and `remedy` for what to do about it.
        """
        ...


class LocalRanks:
    """The one rank of a run in one process."""

    rank = 0
    size = 1

    def wrap(self, model: nn.Module, *, synchronise: bool) -> nn.Module:
        """Return the model itself."""
        return model

    def retire(self, wrap: nn.Module) -> None:
        """Do nothing: the model is always as it is."""

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Do nothing: the mean of one is itself."""

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Do nothing: nobody else listens."""

    def from_first(self, work: Callable[[], T], form: Form[T]) -> T:
        """Return what the work returns, as it is."""
        return work()

    def must_agree(self, facts: Mapping[str, str], remedy: str) -> None:
        """Do nothing: one always agrees with itself."""


LOCAL = LocalRanks()
"""The only rank; it has no state, so that one serves every run."""


def lone_rank(model: nn.Module) -> LocalRanks:
    """Return the only rank of a run for which no ranks were given.

    Raises:
        TypeError: the model is wrapped for several ranks already.
        ValueError: this process is one of several.
    """
    if isinstance(model, DistributedDataParallel):
        raise TypeError(
            "a DistributedDataParallel does not see what grows inside it: give the module that it "
            "wraps, with ranks=DistributedRanks(), and train grower.trained_model"
        )
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise ValueError(
            f"this process is rank {dist.get_rank()} of {dist.get_world_size()}: pass "
            "ranks=DistributedRanks() to grow with the others, or ranks=LocalRanks() to grow alone"
        )
    return LOCAL


def differences(first: Mapping[str, str], other: Mapping[str, str], *, limit: int = 3) -> str:
    """Say in which of its facts another rank differs from rank 0; empty if in none."""
    names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
    told = [
        f"{name}: {other.get(name, 'missing')} (on rank 0: {first.get(name, 'missing')})"
        for name in names[:limit]
    ]
    if len(names) > limit:
        told.append(f"and {len(names) - limit} more")
    return "; ".join(told)
