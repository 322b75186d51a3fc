"""Copies of a state share nothing with it, nor with each other, wherever their memory is from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from esper_async.kasmina.snapshot import nested_tensors
from esper_async.tolaria.checkpoint import CheckpointStore
from esper_async.tolaria.recovery import Recovery
from esper_async.tolaria.state_copy import Outline, Spare
from tests.growth_hosts import differing

MAKERS: list[Callable[[], Tensor]] = [
    lambda: torch.randn(3, 2),
    lambda: torch.randn(2, 3),
    lambda: torch.randn(2, 3).t(),
    lambda: torch.randn(3, 2, dtype=torch.float64),
    lambda: torch.arange(6).reshape(3, 2),
    lambda: torch.randn(1, 2).expand(3, 2),
    lambda: torch.randn(()),
    lambda: torch.randn(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
]
tensors = st.sampled_from(MAKERS).map(lambda make: make())
states = st.recursive(
    tensors | st.integers(0, 9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers(0, 9), inner)
    ),
    max_leaves=8,
).map(lambda value: {"state": value})


@given(states, st.lists(states, max_size=3))
def test_a_copy_in_spare_memory_is_a_copy(living: dict[str, Any], old: list[Any]) -> None:
    copied = Outline(living).copy(Spare(*(Outline(each).copy() for each in old))).state
    assert differing(living, copied) == []
    places = [tensor.data_ptr() for _, tensor in nested_tensors(copied)]
    assert len(set(places)) == len(places)
    before = Outline(copied).copy().state
    for _, tensor in nested_tensors(living):
        if 0 not in tensor.stride():
            tensor.fill_(77)
    assert differing(before, copied) == []


def test_a_copy_of_the_same_form_takes_no_fresh_memory() -> None:
    living = {"a": torch.randn(5), "b": [torch.randn(2, 2), torch.randn(2, 2)]}
    old = Outline(living).copy()
    places = {tensor.data_ptr() for _, tensor in nested_tensors(old.state)}
    again = Outline(living).copy(Spare(old)).state
    assert {tensor.data_ptr() for _, tensor in nested_tensors(again)} == places


def test_a_snapshot_shares_nothing() -> None:
    tensor = torch.zeros(2)
    copied = Outline({"a": [tensor], "b": (tensor, 1), "c": ((2, [tensor]),)}).copy().state
    tensor.fill_(1.0)
    assert copied["b"][1] == 1 and copied["c"][0][0] == 2
    found = [tensor for _, tensor in nested_tensors(copied)]
    assert [float(tensor.sum()) for tensor in found] == [0.0] * 3


def test_a_state_that_was_handed_out_is_never_overwritten() -> None:
    """What was loaded from it, such as a random state, may still be in use."""
    recovery = Recovery(None, in_memory=1)
    living = {"weights": torch.zeros(4)}
    recovery.save(1, lambda: living)
    way = recovery.before(2)
    assert way is not None
    loaded = way.state["weights"]
    for value in (1.0, 2.0, 3.0):
        living["weights"].fill_(value)
        recovery.save(2, lambda: living)
    assert torch.equal(loaded, torch.zeros(4))


def test_what_is_being_written_is_not_overwritten_by_the_next_copy(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, kept=6)
    recovery = Recovery(store, in_memory=1)
    living = {"weights": torch.zeros(1_000_000)}
    for step in range(1, 7):
        living["weights"].fill_(step)
        recovery.save(step, lambda: living)
    recovery.wait()
    for step in range(1, 7):
        loaded = store.load_before(step + 1)
        assert loaded is not None
        assert torch.equal(loaded.state["weights"], torch.full((1_000_000,), float(step)))
