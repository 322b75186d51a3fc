"""What of a run's view is kept from boundary to boundary."""

from typing import Any

import numpy as np
import pytest

from esper_async.kasmina.seed_memory import bytes_of_buffers
from esper_async.tamiyo.view import OfferedPlacements
from esper_async.tolaria.seeds_view import LossLists
from tests.tolaria.test_seed_memory import plant, prepared, set_budget


def entries(*losses: float) -> list[dict[str, float]]:
    return [{"validation_loss": loss, "training_loss": loss / 2} for loss in losses]


def test_losses_are_those_of_a_history_that_grows() -> None:
    kept, history = LossLists(), entries(3.0)
    for loss in (2.0, 1.0):
        kept.read(history)
        history += entries(loss)
    kept.read(history)
    assert kept.validation == [3.0, 2.0, 1.0]
    assert kept.training == [1.5, 1.0, 0.5]


@pytest.mark.parametrize(
    "other",
    [entries(9.0), entries(9.0, 8.0), entries(9.0, 8.0, 7.0)],
    ids=["shorter", "as long", "longer"],
)
def test_losses_of_a_run_that_went_back_are_those_of_its_new_history(other: Any) -> None:
    kept = LossLists()
    kept.read(entries(3.0, 2.0))
    kept.read(other)
    assert kept.validation == [entry["validation_loss"] for entry in other]


def test_a_boundary_without_a_training_loss_has_none() -> None:
    kept = LossLists()
    kept.read([{"validation_loss": 1.0}])
    assert (kept.validation, kept.training) == ([1.0], [])


def test_an_offer_that_has_not_changed_is_the_same_object_and_a_planted_one_another() -> None:
    grower = prepared()
    before = grower.look().placements
    assert isinstance(before, OfferedPlacements)
    assert grower.look().placements is before
    set_budget(grower, 0)
    assert len(grower.look().placements) == 0
    set_budget(grower, 10**9)
    again = grower.look().placements
    assert isinstance(again, OfferedPlacements)
    assert np.array_equal(again.places, before.places)


def test_the_bytes_of_buffers_follow_what_grows() -> None:
    grower = prepared()
    assert grower.executor is not None
    expected = sum(buffer.nbytes for buffer in grower.model.buffers())
    assert bytes_of_buffers(grower.executor) == expected
    plant(grower)
    assert grower.look().free_candidates == grower.executor.options.max_candidates - 1
