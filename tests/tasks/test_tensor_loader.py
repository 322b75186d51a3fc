"""The in-memory loader: complete epochs, an order that repeats, positions that resume."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper_async.tasks.tensor_loader import TensorLoader


def loader(count: int = 10, batch_size: int = 4, seed: int | None = 3) -> TensorLoader:
    numbers = torch.arange(count)
    return TensorLoader(numbers, numbers * 2, batch_size=batch_size, seed=seed)


def epoch(source: TensorLoader) -> list[list[int]]:
    return [inputs.tolist() for inputs, _ in source]


@given(st.integers(1, 40), st.integers(1, 50), st.one_of(st.none(), st.integers(0, 5)))
def test_every_sample_is_delivered_once_an_epoch_with_its_target(
    count: int, batch_size: int, seed: int | None
) -> None:
    source = loader(count, batch_size, seed)
    batches = list(source)
    assert sorted(torch.cat([inputs for inputs, _ in batches]).tolist()) == list(range(count))
    assert all(torch.equal(targets, inputs * 2) for inputs, targets in batches)
    assert len(batches) == len(source)


def test_the_last_partial_batch_is_kept() -> None:
    assert [len(batch) for batch in epoch(loader(10, 4))] == [4, 4, 2]


def test_without_a_seed_the_order_is_the_data_s() -> None:
    source = loader(seed=None)
    assert epoch(source) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] == epoch(source)


def test_epochs_differ_and_repeat_with_the_same_seed() -> None:
    first, second = loader(), loader()
    epochs = [epoch(first) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs == [epoch(second) for _ in range(3)]
    assert epoch(loader(seed=4)) != epochs[0]


def test_looking_at_a_batch_changes_nothing() -> None:
    looked_at, untouched = loader(), loader()
    next(iter(looked_at))
    next(iter(looked_at))
    assert epoch(looked_at) == epoch(untouched)


def test_the_order_does_not_depend_on_or_change_the_global_random_state() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = epoch(loader())
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert epoch(loader()) == first


@given(st.integers(0, 2), st.integers(0, 3), st.integers(0, 5))
def test_a_resumed_loader_goes_on_where_the_first_was_saved(
    epochs: int, delivered: int, seed: int
) -> None:
    straight, interrupted = loader(seed=seed), loader(seed=seed)
    for _ in range(epochs):
        epoch(straight)
        epoch(interrupted)
    iterator = iter(interrupted)
    for _ in range(delivered):
        next(iterator)
    saved = interrupted.state_dict()

    resumed = loader(seed=seed)
    resumed.load_state_dict(saved)
    assert epoch(resumed) == epoch(straight)[delivered:]
    assert epoch(resumed) == epoch(straight)


def test_a_state_outside_the_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match="no batch 9 of 3"):
        loader().load_state_dict({"epoch": 0, "position": 9})


@pytest.mark.parametrize(
    ("inputs", "targets", "batch_size", "message"),
    [(3, 2, 1, "3 inputs but 2 targets"), (0, 0, 1, "no samples"), (1, 1, 0, "at least 1")],
)
def test_impossible_loaders_are_refused(
    inputs: int, targets: int, batch_size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TensorLoader(torch.zeros(inputs), torch.zeros(targets), batch_size=batch_size)
