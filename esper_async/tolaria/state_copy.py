"""Copies of a run's state, made in the place of older copies where there are some.

Fresh memory costs more than the copying itself: the system hands it out zeroed, page by page, at
the first touch. And a state has more containers than tensors: they are walked once, before anything
is copied, and what was found is kept with the copy, which is overwritten without another walk.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from esper_async.kasmina.snapshot import MAPPINGS, PLAIN

_Form = tuple[torch.dtype, torch.Size, tuple[int, ...]]
_PLAIN = frozenset(PLAIN) | {bool}


class StateCopy(NamedTuple):
    """A state that shares nothing with the one it was copied from, and its tensors, in no order."""

    state: dict[str, Any]
    tensors: Sequence[Tensor]


class Spare:
    """The tensors of copies that nobody reads any more, to be overwritten by another copy."""

    def __init__(self, *copies: StateCopy) -> None:
        self._tensors: defaultdict[_Form, list[Tensor]] = defaultdict(list)
        for copied in copies:
            for tensor in copied.tensors:
                if tensor.layout is torch.strided:
                    self._tensors[_form(tensor)].append(tensor)

    def copies(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return copies on the CPU; each spare tensor is used once."""
        copied: list[Tensor] = []
        sources: list[Tensor] = []
        places: list[Tensor] = []
        for tensor in tensors:
            if tensor.layout is torch.strided and (fitting := self._tensors.get(_form(tensor))):
                place = fitting.pop()
                places.append(place)
                sources.append(tensor)
            else:
                place = tensor.detach().to("cpu", copy=True)
            copied.append(place)
        if places:
            with torch.no_grad():
                torch._foreach_copy_(places, sources)
        return copied


class Outline:
    """The containers of a state, built anew, with its living tensors still outside them.

    Args:
        state: nested mappings, lists and tuples; what else is in them is taken as it is.

    Attributes:
        size_bytes: what the tensors take.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.size_bytes = 0
        self._living: list[Tensor] = []
        self._places: list[tuple[Any, Any, list[Any] | None]] = []
        self._state: dict[str, Any] = self._mapping(state)

    def copy(self, spare: Spare | None = None) -> StateCopy:
        """Copy the tensors, into `spare` memory where there is some; to be called once."""
        copied = (spare or Spare()).copies(self._living)
        tensors = iter(copied)
        for container, key, items in self._places:
            container[key] = next(tensors) if items is None else tuple(items)
        return StateCopy(self._state, copied)

    def _mapping(self, values: Mapping[Any, Any]) -> dict[Any, Any]:
        new: dict[Any, Any] = {}
        for key, value in values.items():
            # most of a state is plain: a call for each would take longer than all else
            new[key] = value if type(value) in _PLAIN else self._new(new, key, value)
        return new

    def _items(self, values: Sequence[Any]) -> list[Any]:
        new: list[Any] = [None] * len(values)
        for index, value in enumerate(values):
            new[index] = value if type(value) in _PLAIN else self._new(new, index, value)
        return new

    def _new(self, container: Any, key: Any, value: Any) -> Any:
        """Return what is to stand at `key` in a new container, until tensors are copied."""
        if isinstance(value, Tensor):
            self.size_bytes += value.nbytes
            self._living.append(value)
            self._places.append((container, key, None))
            return None
        if isinstance(value, MAPPINGS):
            return self._mapping(value)
        if isinstance(value, list):
            return self._items(value)
        if isinstance(value, tuple):
            before = len(self._living)
            items = self._items(value)
            if len(self._living) > before:  # its tensors have their places before it
                self._places.append((container, key, items))
            return tuple(items)
        return value


def _form(tensor: Tensor) -> _Form:
    return tensor.dtype, tensor.shape, tensor.stride()
