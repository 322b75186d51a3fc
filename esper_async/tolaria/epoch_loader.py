"""Going through the training loader so that a resumed run sees the very batches it would have."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from esper_async.kasmina.micro_batches import MicroBatches
from esper_async.kasmina.user_code import batches_of, blaming
from esper_async.tolaria import global_random
from esper_async.tolaria.loader_workers import (
    has_position,
    has_workers,
    keeps_workers,
    set_workers,
)
from esper_async.tolaria.task import TaskError

_COMPARED_BATCHES = 2
BEGINS_ANEW = "give a list, a DataLoader, or an object whose __iter__ begins anew"


class EpochLoader:
    """Batches of one epoch after the other, with a position that can be saved and restored.

    A loader with `state_dict` and `load_state_dict` is asked for its own position. Any other is
    started again from the random states of its epoch's beginning (the global ones, and those of
    a DataLoader's own generators), and the batches already seen are passed over; that is exact if
    iterating it twice from the same states yields the same.

    Args:
        loader: the training loader. Workers that it keeps from before are ended: a run begins with
            its own.
        beside: other loaders of the run: their generators, and whether they have workers now, are
            part of the position.
    """

    def __init__(self, loader: Iterable[Any], beside: Iterable[Iterable[Any]] = ()) -> None:
        self._loader = loader
        self._all = [loader, *beside]
        self.close()
        self.stateful = has_position(loader)
        self.epoch = 0
        self.batch = 0
        self._length: int | None = None
        self._begin: dict[str, Any] | None = None
        self._resume: dict[str, Any] | None = None

    def close(self) -> None:
        """End the workers that loaders keep."""
        for loader in self._all:
            set_workers(loader, wanted=False)

    @property
    def is_at_end(self) -> bool:
        """Whether the batch that was yielded is the epoch's last; False where nobody knows."""
        return self.batch == self._length

    def steps(self, accumulate: int = 1) -> Iterator[Any]:
        """Yield the rest of the present epoch by optimizer steps, then count it as done.

        A step is a batch, or a `MicroBatches` of `accumulate` of them; the last one of an epoch
        takes what is left.

        Raises:
            TaskError: the loader yields no batch at all.
            UserCodeError: the loader raised.
        """
        rest = self._rest()
        if accumulate == 1:
            yield from rest
        else:
            while step := MicroBatches(islice(rest, accumulate)):
                yield step
        self.epoch += 1
        self.batch = 0

    def _rest(self) -> Iterator[Any]:
        with blaming("train_loader"):
            iterator = self._start()
            self._length = length_of(self._loader)
        empty = self.batch == 0
        for batch in batches_of(iterator, "train_loader"):
            empty = False
            self.batch += 1
            yield batch
        if empty:
            raise TaskError(
                "Task.train_loader yielded no batch; it must yield at least one each epoch "
                f"(a generator can be iterated only once: {BEGINS_ANEW})"
            )

    def _start(self) -> Iterator[Any]:
        resume, self._resume = self._resume, None
        if resume is None:
            self._begin = self._capture()
            return iter(self._loader)
        if self.stateful and resume["own"] is not None:
            self._begin = resume["begin"]
            self._loader.load_state_dict(resume["own"])  # type: ignore[attr-defined]
            return iter(self._loader)
        begin = resume["begin"] if self.batch else None
        set_workers(self._loader, wanted=(begin or resume)["workers"][0])
        self._restore_generators(resume["generators"])
        now = global_random.capture()
        if begin is not None:
            global_random.restore(begin["global"])
            self._restore_generators(begin["generators"])
        self._begin = begin or self._capture()
        iterator = iter(self._loader)
        for _ in range(self.batch):
            next(iterator)
        if self.batch:
            global_random.restore(now)
            self._restore_generators(resume["generators"])
        return iterator

    def _capture(self) -> dict[str, Any]:
        return {
            "global": global_random.capture(),
            "generators": self._generator_states(),
            "workers": self._workers(),
        }

    def _workers(self) -> list[bool]:
        return [has_workers(loader) for loader in self._all]

    def _generator_states(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators()]

    def _generators(self) -> list[torch.Generator]:
        return [generator for loader in self._all for generator in generators_of(loader)]

    def _restore_generators(self, states: list[Tensor]) -> None:
        for generator, state in zip(self._generators(), states, strict=True):
            generator.set_state(state)

    def other_batches(self) -> str | None:
        """Say that a resumed run will see other batches, if the loader's first ones are others."""
        if self.stateful or self.repeats(_COMPARED_BATCHES):
            return None
        return "the training loader yields other batches each time it begins"

    def repeats(self, batches: int) -> bool:
        """Whether iterating the loader twice from the same random states yields the same.

        Of one that keeps its workers, whether new ones yield what used ones do. It is done
        `batches` deep; random states and workers are as they were afterwards.
        """
        begin = self._capture()
        first = self._first(batches)
        if keeps_workers(self._loader):
            self._restore({**begin, "workers": [True]})
            first = self._first(batches)
            set_workers(self._loader, wanted=False)
            self._restore({**begin, "workers": [True]})
        else:
            self._restore(begin)
        second = self._first(batches)
        self._restore(begin)
        return same_batch(first, second)

    def _first(self, count: int) -> list[Any]:
        return list(islice(self._loader, count))

    def _restore(self, states: Mapping[str, Any]) -> None:
        set_workers(self._loader, wanted=states["workers"][0])
        global_random.restore(states["global"])
        self._restore_generators(states["generators"])

    def state_dict(self) -> dict[str, Any]:
        """Return the position, to be restored together with the global random states."""
        own = self._loader.state_dict() if self.stateful else None  # type: ignore[attr-defined]
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "begin": self._begin,
            "generators": self._generator_states(),
            "workers": self._workers(),
            "own": own,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a position; it holds from the next epoch's iteration on."""
        self.epoch, self.batch = state["epoch"], state["batch"]
        self._resume = state
        for loader, had in zip(self._all[1:], state["workers"][1:], strict=True):
            set_workers(loader, wanted=had)


def length_of(loader: Iterable[Any]) -> int | None:
    """Return how many batches a loader has, None where it has no length."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def same_batch(one: Any, other: Any) -> bool:
    """Whether two batches, or parts of them, are equal to the bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same_batch(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_batch, one, other))
    return bool(one == other)


def generators_of(loader: Any) -> list[torch.Generator]:
    """Return the generators that a DataLoader, its sampler and its batch sampler draw from."""
    places = [loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    found = [getattr(place, "generator", None) for place in places]
    distinct = {id(each): each for each in found if isinstance(each, torch.Generator)}
    return list(distinct.values())
