"""What was offered goes into the record whole, and comes out as it went in."""

import base64
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_async.karn.catalogue import Catalogue
from esper_async.leyline.limits import Limits
from esper_async.tamiyo import offer as offers
from esper_async.tamiyo.command import Decision, Germinate, decision_from_json
from esper_async.tamiyo.evidence import unpack
from esper_async.tamiyo.offer import Offer, pack_draw, unpack_draw
from esper_async.tamiyo.policies import make_policy
from esper_async.tamiyo.policies.placement_features import planted_features
from esper_async.tamiyo.view import Placement
from tests.tamiyo.graph_views import view

DRAWING = ("random", "periodic", "largest", "bandit")


def drawn(name: str, *, sites: int = 3) -> Decision:
    return make_policy(name, 3).decide(view(14, sites=sites))


@pytest.mark.parametrize("name", DRAWING)
def test_a_policy_that_draws_records_all_it_drew_from(name: str) -> None:
    decision = drawn(name)
    assert isinstance(decision.command, Germinate)
    assert decision.choices is not None
    told = unpack_draw(decision.choices)
    here = view(14).placements
    offered = [
        (told.sites[site], told.blueprints[blueprint])
        for site, blueprint in zip(told.site_of, told.blueprint_of, strict=True)
    ]
    assert offered == [(each.site, each.blueprint) for each in here]
    assert sum(told.probabilities) + told.idle_probability == pytest.approx(1.0)
    assert told.probabilities[told.chosen] == pytest.approx(decision.probability)
    (candidate,) = decision.command.candidates
    assert offered[told.chosen] == (candidate.site, candidate.blueprint)


@pytest.mark.parametrize("name", DRAWING)
def test_the_probabilities_are_those_with_which_it_chooses(name: str) -> None:
    policy = make_policy(name, 3)
    here = view(14)
    counts = np.zeros(len(here.placements))
    for _ in range(600):
        choices = policy.decide(here).choices
        assert choices is not None
        told = unpack_draw(choices)
        counts[told.chosen] += 1
    expected = 600 * np.array(told.probabilities)
    assert (np.abs(counts - expected) <= 5.0 * np.sqrt(expected) + 1e-9).all()


def test_where_nothing_is_drawn_there_are_no_choices() -> None:
    assert make_policy("random", 3).decide(view(1)).choices is None
    assert drawn("heuristic").choices is None


def test_features_from_a_record_are_those_that_were_decided_by() -> None:
    decision = drawn("bandit", sites=9)
    assert decision.choices is not None
    told = unpack_draw(decision.choices)
    again = Offer.from_message(told).features()
    assert again == pytest.approx(Offer.of(view(14, sites=9), Catalogue()).features(), abs=1e-6)
    planted = planted_features(decision.command, view(14, sites=9), Catalogue())
    assert planted is not None
    assert again[told.chosen] == pytest.approx(planted["values"][0], abs=1e-6)


def test_features_of_a_placement_by_hand() -> None:
    here = Offer(
        ("a", "b"), np.array([0, 4]), ("BP009", "BP999"),
        np.array([[1.0, 0.3, 0.0, 0.0], [np.nan, np.nan, np.nan, np.nan]]),
        np.array([0, 1]), np.array([0, 1]), np.array([100, 4_000]), 400,
    )  # fmt: skip
    assert here.features() == pytest.approx(
        np.array(
            [
                [1.0, np.log(101) / 10, 0.25 / 8, 0.0, 1 / 6, 0.3, 0.0, 0.0],
                [1.0, np.log(4_001) / 10, 1.0, 1.0, 0.5 / 6, 0.5, 0.5, 0.5],
            ]
        )
    )


def test_what_is_unknown_of_a_blueprint_stays_unknown_in_the_record() -> None:
    here = view(14)
    here.placements.append(Placement("first", 0, "BP999", "residual", 5))  # type: ignore[attr-defined]
    offer = Offer.of(here, Catalogue())
    told = offer.to_message(np.full(len(offer), 1.0 / len(offer)), 0, 0.0)
    assert np.isnan(Offer.from_message(told).facts[-1]).all()
    assert np.isfinite(offer.features()).all()


def test_eight_hundred_placements_take_little_room() -> None:
    """A field report's message may have 256 KiB, and the store keeps 1 GiB of them."""
    offer = Offer.of(view(14, sites=267), Catalogue())
    assert len(offer) == 801
    message = offer.to_message(np.full(801, 1 / 801), 17, 0.0)
    assert message.ByteSize() <= 13_000


def test_an_offer_that_is_too_large_is_not_recorded_in_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offer = Offer.of(view(14), Catalogue())
    even = np.full(len(offer), 1 / len(offer))
    monkeypatch.setattr(offers, "LIMITS", Limits(recorded_choices=len(offer)))
    assert pack_draw(offer, even, 0) is not None
    monkeypatch.setattr(offers, "LIMITS", Limits(recorded_choices=len(offer) - 1))
    assert pack_draw(offer, even, 0) is None


def test_a_decision_keeps_its_choices_on_its_way_to_other_processes() -> None:
    decision = drawn("random")
    assert decision_from_json(decision.to_json()) == decision


def test_another_text_is_refused() -> None:
    with pytest.raises(ValueError, match="choices of a decision cannot be read"):
        unpack_draw("no such thing")


@given(st.binary(max_size=60), st.booleans())
def test_a_journal_with_anything_in_the_place_of_its_packed_messages_is_refused(
    content: bytes, packed: bool
) -> None:
    text = base64.b64encode(zlib.compress(content) if packed else content).decode()
    for read in (unpack_draw, unpack):
        with suppress(ValueError):
            read(text)
