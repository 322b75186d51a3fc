"""States packed and unpacked: each tensor bit by bit, everything else as it was."""

import io
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor

from esper_async.kasmina.snapshot import nested_tensors
from esper_async.tolaria.packing import pack, unpack

_DTYPES = (
    torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8,
    torch.bool, torch.complex64,
)  # fmt: skip
_SHAPES = st.lists(st.integers(0, 5), max_size=4)


def _tensor(dtype: torch.dtype, shape: list[int], seed: int, transposed: bool) -> Tensor:
    drawn = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return drawn.transpose(0, -1) if transposed and shape else drawn


_TENSORS = st.builds(_tensor, st.sampled_from(_DTYPES), _SHAPES, st.integers(0, 9), st.booleans())
_PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=9)
_VALUES = st.recursive(
    _TENSORS | _PLAIN,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        keys = list(first) == list(second)
        return keys and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        long = type(first) is type(second) and len(first) == len(second)
        return long and all(map(_same, first, second))
    return bool(first == second)


@given(st.dictionaries(st.text(max_size=4), _VALUES, max_size=5))
def test_a_state_comes_back_as_it_was(state: dict[str, Any]) -> None:
    file = io.BytesIO()
    torch.save(pack(state), file)
    file.seek(0)
    assert _same(state, unpack(torch.load(file, weights_only=True)))


def test_small_tensors_become_one_and_large_ones_are_shared() -> None:
    large = torch.zeros(100_000)
    packed = pack({"small": [torch.full((3,), float(n)) for n in range(50)], "large": large})
    places = [tensor.data_ptr() for _, tensor in nested_tensors(packed)]
    assert len(places) == 2
    assert large.data_ptr() in places


def test_what_was_small_does_not_hang_on_its_neighbours() -> None:
    one, _ = unpack(pack({"pair": (torch.zeros(4), torch.ones(4))}))["pair"]
    assert one.untyped_storage().nbytes() == 16


def test_the_memory_layout_of_weights_is_kept() -> None:
    weight = torch.arange(24.0).view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    assert unpack(pack({"weight": weight}))["weight"].stride() == weight.stride()


def test_text_that_looks_like_a_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="must not have the text"):
        pack({"name": "\0tensor 0"})
