"""Copies of a run's state, made in the place of older copies where there are some.

Fresh memory costs more than the copying itself: the system hands it out zeroed, page by page, at
the first touch.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from esper_async.kasmina.snapshot import MAPPINGS, PLAIN

_Form = tuple[torch.dtype, torch.Size, tuple[int, ...]]


class Spare:
    """The tensors of copies that nobody reads any more, to be overwritten by another copy."""

    def __init__(self, *states: Mapping[str, Any]) -> None:
        self._tensors: defaultdict[_Form, list[Tensor]] = defaultdict(list)
        for state in states:
            self._take(state)

    def _take(self, value: Any) -> None:
        if isinstance(value, PLAIN):
            return
        if isinstance(value, Tensor):
            if value.layout is torch.strided:
                self._tensors[_form(value)].append(value)
        elif isinstance(value, MAPPINGS):
            for item in value.values():
                self._take(item)
        elif isinstance(value, list | tuple):
            for item in value:
                self._take(item)

    def copy(self, tensor: Tensor) -> Tensor:
        """Return a copy of `tensor` on the CPU; each spare tensor is used once."""
        if tensor.layout is torch.strided and (fitting := self._tensors.get(_form(tensor))):
            return fitting.pop().copy_(tensor.detach())
        return tensor.detach().to("cpu", copy=True)


def snapshot(value: Any, spare: Spare | None = None) -> Any:
    """Return a deep copy of a state: tensors are copied to the CPU, containers rebuilt.

    `spare` has memory to use for it.
    """
    spare = spare or Spare()
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Tensor):
        return spare.copy(value)
    if isinstance(value, MAPPINGS):
        return {key: snapshot(item, spare) for key, item in value.items()}
    if isinstance(value, list):
        return [snapshot(item, spare) for item in value]
    if isinstance(value, tuple):
        return tuple(snapshot(item, spare) for item in value)
    return value


def _form(tensor: Tensor) -> _Form:
    return tensor.dtype, tensor.shape, tensor.stride()
