"""What a run remembers of what it told is bounded; its journal has all of it."""

from typing import Any

import pytest

from esper_async.tamiyo.command import Decision, NoOp
from esper_async.tolaria import chronicle
from esper_async.tolaria.chronicle import Chronicle
from esper_async.tolaria.run_journal import RunJournal


def test_the_newest_of_what_was_told_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chronicle, "MOST_TOLD", 3)
    heard: list[Any] = []
    journal = RunJournal("r", None, heard.append)
    told = Chronicle(journal, lambda: {"boundary": len(heard), "step": 0, "epoch": 0})
    for number in range(5):
        told.decision(f"c{number}", Decision(NoOp(), "a test", 1.0), "static", "1")
    assert [record["command"]["id"] for record in told.told["decision"]] == ["c2", "c3", "c4"]
    assert len(heard) == 5


def test_only_what_is_critical_asks_for_a_checkpoint_and_asks_once() -> None:
    told = Chronicle(RunJournal("r", None), lambda: {"boundary": 1, "step": 4, "epoch": 1})
    told.emergency("SEVERE", "a loss")
    assert not told.asks_to_save()
    told.emergency("CRITICAL", "a trespass")
    assert told.asks_to_save()
    assert not told.asks_to_save()


def test_a_checkpoint_has_no_more_parts_the_longer_a_run_has_told() -> None:
    told = Chronicle(RunJournal("r", None), lambda: {"boundary": 1, "step": 4, "epoch": 1})
    parts = []
    for number in range(200):
        told.decision(f"c{number}", Decision(NoOp(), "a test", 1.0), "static", "1")
        parts.append(_parts(told.state_dict()))
    assert parts[199] == parts[9]


def _parts(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(_parts, value.values()))
    return 1 + sum(map(_parts, value)) if isinstance(value, list | tuple) else 1
