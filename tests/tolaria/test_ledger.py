"""A ledger gives back what it was given, and costs a checkpoint the same however long it is."""

import math

import pytest

from esper_async.tolaria.ledger import Ledger


def _filled(count: int, most: int | None = None) -> Ledger:
    ledger = Ledger(most)
    for number in range(count):
        ledger.append({"number": number, "loss": number / 3, "command": {"id": f"c{number}"}})
    return ledger


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1000])
def test_records_come_back_as_they_were(count: int) -> None:
    ledger, again = _filled(count), Ledger()
    again.load(ledger.state())
    assert again.records == ledger.records
    assert again.state() == ledger.state()


def test_a_ledger_that_was_loaded_goes_on_as_the_one_it_came_from() -> None:
    ledger, again = _filled(300, most=270), Ledger(270)
    again.load(ledger.state())
    for each in (ledger, again):
        each.append({"number": 300})
    assert again.records == ledger.records
    assert again.state() == ledger.state()


@pytest.mark.parametrize("most", [1, 3, 256, 300])
def test_only_the_newest_are_remembered(most: int) -> None:
    ledger, again = _filled(1000, most), Ledger(most)
    again.load(ledger.state())
    numbers = list(range(1000 - most, 1000))
    for each in (ledger, again):
        assert [record["number"] for record in each.records] == numbers
    assert sum(map(len, ledger.state())) <= sum(map(len, _filled(most + 512).state()))


def test_a_state_has_few_parts_however_many_records_there_are() -> None:
    assert len(_filled(10).state()) == 1
    assert len(_filled(10_000).state()) <= 40


def test_what_is_not_finite_comes_back_too() -> None:
    ledger, again = Ledger(), Ledger()
    ledger.append({"loss": math.inf, "other": math.nan})
    again.load(ledger.state())
    assert again.records[0]["loss"] == math.inf
    assert math.isnan(again.records[0]["other"])


def test_a_state_does_not_change_when_the_ledger_goes_on() -> None:
    ledger = _filled(256)
    state = ledger.state()
    before = list(state)
    ledger.append({"number": 256})
    assert state == before


def test_what_is_not_json_is_refused_and_changes_nothing() -> None:
    ledger = _filled(2)
    state, given = ledger.state(), object()
    with pytest.raises(TypeError, match="not JSON serializable"):
        ledger.append({"loss": given})
    assert ledger.state() == state
    assert len(ledger.records) == 2
