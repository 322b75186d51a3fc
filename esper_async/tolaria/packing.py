"""Many small tensors of a state as few: what a checkpoint costs hangs on their number.

A tensor is saved with a header, an alignment and a dozen Python objects of its own, which for the
weights of a small layer costs more than their bytes. The bytes of small ones are laid end to end;
large ones stay as they are, so that nothing large is copied.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from esper_async.kasmina.snapshot import MAPPINGS, PLAIN

_SMALL_BYTES: Final = 1 << 16
_MARK: Final = "\0tensor "
"""What stands in the state for a tensor: no name or text begins so."""


def pack(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `unpack` makes `state` of again; large tensors are shared with it.

    Raises:
        ValueError: it has a string that begins as the marks for tensors do.
    """
    packer = _Packer()
    tree = packer.strip(state)
    flat = torch.cat([part.view(-1).view(torch.uint8) for part in packer.small] or [torch.empty(0)])
    return {"tree": tree, "places": json.dumps(packer.places), "flat": flat, "own": packer.own}


def unpack(packed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state that was packed; tensors that were small are copies of their own.

    Raises:
        ValueError, LookupError, TypeError, AttributeError, RuntimeError: nothing packed this.
    """
    tensors = []
    for dtype, at, size, shape in json.loads(packed["places"]):
        if dtype is None:
            tensors.append(packed["own"][at])
        else:
            part = packed["flat"].narrow(0, at, size).clone()
            tensors.append(part.view(getattr(torch, dtype)).view(shape))
    state: dict[str, Any] = _fill(packed["tree"], tensors)
    return state


class _Packer:
    """Takes the tensors out of a state.

    Attributes:
        small: those that are laid end to end.
        own: those that are saved as they are.
        places: of each tensor: its type, its first byte and how many, its shape; of one of `own`
            None, and which it is.
    """

    def __init__(self) -> None:
        self.places: list[tuple[str | None, int, int, list[int]]] = []
        self.small: list[Tensor] = []
        self.own: list[Tensor] = []
        self._bytes = 0

    def strip(self, value: Any) -> Any:
        """Return `value` with a mark in the place of each tensor."""
        if isinstance(value, PLAIN):
            if isinstance(value, str) and value.startswith(_MARK):
                raise ValueError(f"a state must not have the text {value!r}")
            return value
        if isinstance(value, Tensor):
            return self._mark(value)
        if isinstance(value, MAPPINGS):
            return {key: self.strip(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.strip(item) for item in value]
        if isinstance(value, tuple):
            return tuple(self.strip(item) for item in value)
        return value

    def _mark(self, tensor: Tensor) -> str:
        if _is_small(tensor):
            dtype = str(tensor.dtype).removeprefix("torch.")
            self.places.append((dtype, self._bytes, tensor.nbytes, list(tensor.shape)))
            self._bytes += tensor.nbytes
            self.small.append(tensor)
        else:
            self.places.append((None, len(self.own), 0, []))
            self.own.append(tensor)
        return f"{_MARK}{len(self.places) - 1}"


def _is_small(tensor: Tensor) -> bool:
    plain = tensor.layout is torch.strided and not tensor.is_quantized
    return plain and tensor.nbytes <= _SMALL_BYTES and tensor.is_contiguous()


def _fill(value: Any, tensors: list[Tensor]) -> Any:
    if isinstance(value, str):
        return tensors[int(value.removeprefix(_MARK))] if value.startswith(_MARK) else value
    if isinstance(value, dict):
        return {key: _fill(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, tensors) for item in value]
    if isinstance(value, tuple):
        return tuple(_fill(item, tensors) for item in value)
    return value
