"""Choices are taken in only where a learner can rely on them, and leave the store whole."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from esper_async.karn.catalogue import Catalogue
from esper_async.leyline import DecisionRecord, SeedOperation
from esper_async.simic import ExperienceStore, Intake
from esper_async.simic.draws import draw_of
from esper_async.simic.export import export_parquet
from esper_async.tamiyo.offer import Offer
from tests.simic.experiences import decision, report
from tests.tamiyo.graph_views import view


def drawn(boundary: int = 14, *, chosen: int | None = 2, idle: float = 0.1) -> DecisionRecord:
    """Return a decision that was drawn from nine placements and to plant nothing."""
    offer = Offer.of(view(14), Catalogue())
    probabilities = np.full(len(offer), (1.0 - idle) / len(offer))
    message = decision("a", boundary)
    message.choices.CopyFrom(offer.to_message(probabilities, chosen, idle))
    message.log_probability = math.log(idle if chosen is None else probabilities[chosen])
    if chosen is not None:
        message.command.seed.operation = SeedOperation.SEED_OPERATION_GERMINATE
        message.command.seed.candidates.add(
            site=offer.sites[offer.site_of[chosen]],
            blueprint_id=offer.blueprints[offer.blueprint_of[chosen]],
        )
    return message


@pytest.fixture
def store(tmp_path: Path):
    opened = ExperienceStore(tmp_path / "experience.sqlite", now=lambda: 1e6)
    yield opened
    opened.close()


@pytest.mark.parametrize("chosen", [2, None])
def test_a_draw_is_kept_with_everything_that_was_offered(
    store: ExperienceStore, chosen: int | None
) -> None:
    assert store.take(drawn(chosen=chosen), "e") is Intake.STORED
    ((_, kept),) = store.decisions()
    draw = draw_of(kept)
    assert draw is not None
    assert (len(draw.offer), draw.chosen) == (9, chosen)
    assert draw.propensity == pytest.approx(0.1)
    assert draw.probabilities == pytest.approx(np.full(9, 0.1))


def test_a_decision_without_choices_has_no_draw(store: ExperienceStore) -> None:
    assert store.take(decision("a", 1), "e") is Intake.STORED
    assert draw_of(decision("a", 1)) is None


BROKEN: dict[str, tuple[Callable[[DecisionRecord], object], str]] = {
    "a site too few": (lambda told: told.choices.site_of.pop(), "different lengths"),
    "a probability too many": (
        lambda told: told.choices.probabilities.append(0.0),
        "different lengths",
    ),
    "a depth too few": (lambda told: told.choices.depths.pop(), "2 depths of 3 sites"),
    "a fact too few": (lambda told: told.choices.blueprint_facts.pop(), "11 facts"),
    "a site that is none": (lambda told: _put(told.choices.site_of, 3), "no site"),
    "a blueprint that is none": (lambda told: _put(told.choices.blueprint_of, 3), "no blueprint"),
    "not a number": (lambda told: _put(told.choices.probabilities, math.nan), "that is none"),
    "below zero": (lambda told: _put(told.choices.probabilities, -0.1), "that is none"),
    "more than all": (lambda told: _put(told.choices.probabilities, 0.3), "sum to 1.2"),
    "a choice that is none": (lambda told: setattr(told.choices, "chosen", 9), "choice 9 of 9"),
    "another choice than planted": (
        lambda told: setattr(told.choices, "chosen", 3),
        "not what the command plants",
    ),
    "nothing chosen and yet planted": (
        lambda told: told.choices.ClearField("chosen"),
        "not what the command plants",
    ),
    "two probabilities of one choice": (
        lambda told: setattr(told, "log_probability", -3.0),
        "and also",
    ),
}


def _put(values: object, value: float) -> None:
    values[0] = value  # type: ignore[index]


@pytest.mark.parametrize("name", BROKEN)
def test_choices_that_contradict_themselves_are_refused_with_the_reason(
    store: ExperienceStore, name: str
) -> None:
    damage, reason = BROKEN[name]
    message = drawn()
    damage(message)
    assert store.take(message, "e") is Intake.REJECTED
    assert reason in store.rejections()[0].reason


def test_what_was_chosen_without_a_probability_is_refused(store: ExperienceStore) -> None:
    message = drawn(chosen=None, idle=0.1)
    message.ClearField("log_probability")
    message.choices.probabilities[0] += message.choices.idle_probability
    message.choices.idle_probability = 0.0
    assert store.take(message, "e") is Intake.REJECTED
    assert "had no probability" in store.rejections()[0].reason


def test_the_table_has_everything_that_was_offered(store: ExperienceStore, tmp_path: Path) -> None:
    store.take_many([(drawn(), "d"), (report("a", 14), "r"), (decision("a", 15), "d2")])
    assert export_parquet(store, tmp_path / "all.parquet") == 2
    drawn_row, quiet = pyarrow.parquet.read_table(tmp_path / "all.parquet").to_pylist()
    assert drawn_row["choice_sites"] == ["first"] * 3 + ["second"] * 3 + ["third"] * 3
    assert drawn_row["choice_blueprints"][drawn_row["chosen"]] == "BP009"
    assert np.shape(drawn_row["choice_features"]) == (9, 8)
    assert drawn_row["choice_probabilities"] == pytest.approx([0.1] * 9)
    assert drawn_row["idle_probability"] == pytest.approx(0.1)
    assert (quiet["choice_sites"], quiet["chosen"]) == (None, None)
