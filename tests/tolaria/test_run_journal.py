"""A resumed run repeats its own decisions and tells nothing twice."""

import math
from pathlib import Path
from typing import Any

from esper_async.runtime.journal import read_journal
from esper_async.tolaria.run_journal import RunJournal


def at(boundary: int) -> dict[str, Any]:
    return {"boundary": boundary, "step": 10 * boundary, "epoch": boundary}


def decide(journal: RunJournal, boundary: int, policy: str = "random") -> dict[str, Any]:
    command = {"id": f"c{boundary}", "operation": None, "candidates": [], "target": None}
    return journal.record("decision", at(boundary), command=command, policy=policy)


def test_records_are_written_and_announced_with_their_place(tmp_path: Path) -> None:
    told: list[Any] = []
    journal = RunJournal("run-1", tmp_path / "j", told.append)
    record = decide(journal, 2)
    journal.close()
    assert told == [record]
    assert list(read_journal(tmp_path / "j")) == [record]
    assert (record["seq"], record["run"], record["boundary"], record["step"]) == (1, "run-1", 2, 20)


def test_what_is_not_finite_is_recorded_as_not_measured(tmp_path: Path) -> None:
    journal = RunJournal("run-1", tmp_path / "j")
    record = journal.record("x", at(1), loss=math.nan, nested=[{"high": math.inf, "ok": 1.5}])
    journal.close()
    assert record["loss"] is None
    assert record["nested"] == [{"high": None, "ok": 1.5}]


def test_what_is_done_again_is_not_told_again(tmp_path: Path) -> None:
    first = RunJournal("run-1", tmp_path / "j")
    decide(first, 1)
    checkpointed = first.last_seq
    decide(first, 2)
    first.record("transition", at(2), seed="s1", to_stage="TRAINING")
    first.close()

    told: list[Any] = []
    second = RunJournal("run-1", tmp_path / "j", told.append)
    again = second.resume(checkpointed)
    assert [record["kind"] for record in again] == ["decision", "transition"]
    decide(second, 2)
    second.record("transition", at(2), seed="s1", to_stage="TRAINING")
    assert told == []
    second.record("transition", at(3), seed="s1", to_stage="BLENDING")
    decide(second, 3)
    second.close()
    assert [record["seq"] for record in told] == [4, 5]
    assert len(list(read_journal(tmp_path / "j"))) == 5


def test_a_decision_taken_before_the_crash_is_there_to_be_taken_again(tmp_path: Path) -> None:
    first = RunJournal("run-1", tmp_path / "j")
    for boundary in (1, 2):
        decide(first, boundary)
        decide(first, boundary, "operator")
    first.close()
    second = RunJournal("run-1", tmp_path / "j")
    second.resume(2)
    assert [r["boundary"] for r in second.decisions(2, "operator")] == [2]
    assert second.decisions(1, "operator") == []
    assert second.decisions(2, "heuristic") == []
    second.close()


def test_the_same_thing_twice_at_another_boundary_is_two_things(tmp_path: Path) -> None:
    journal = RunJournal("run-1", tmp_path / "j")
    journal.resume(0)
    decide(journal, 1)
    decide(journal, 2)
    journal.close()
    assert len(list(read_journal(tmp_path / "j"))) == 2


def test_boundaries_told_before_the_crash_are_known_as_repeated(tmp_path: Path) -> None:
    first = RunJournal("run-1", tmp_path / "j")
    for boundary in (1, 2, 3):
        decide(first, boundary)
    first.close()
    second = RunJournal("run-1", tmp_path / "j")
    assert not second.repeats(1)
    second.resume(1)
    assert [second.repeats(boundary) for boundary in (2, 3, 4)] == [True, True, False]
    second.close()


def test_nothing_from_before_a_rollback_is_repeated(tmp_path: Path) -> None:
    """Neither in the process that went back nor in one that resumes after it."""
    first = RunJournal("run-1", tmp_path / "j")
    decide(first, 2)
    decide(first, 3)
    first.close()
    second = RunJournal("run-1", tmp_path / "j")
    second.resume(0)
    second.record("rollback", at(3), to_boundary=1, to_step=10)
    assert not second.repeats(2)
    assert second.decisions(2, "random") == []
    decide(second, 2)
    second.close()
    third = RunJournal("run-1", tmp_path / "j")
    again = third.resume(0)
    assert [record["boundary"] for record in again] == [2, 3, 3, 2]
    assert [third.repeats(boundary) for boundary in (2, 3)] == [True, False]
    assert [record["seq"] for record in third.decisions(2, "random")] == [4]
    assert third.last_rollback is not None
    assert third.last_rollback["seq"] == 3
    third.close()


def test_requests_are_met_by_whatever_record_names_them(tmp_path: Path) -> None:
    first = RunJournal("run-1", tmp_path / "j")
    first.record("command_refused", at(1), reason="no", request=7)
    assert first.met(7)
    first.close()
    second = RunJournal("run-1", tmp_path / "j")
    assert second.met(7)
    assert not second.met(8)
    assert not second.met(None), "a request without a number is never the same one again"
    second.close()


def test_without_a_path_records_are_numbered_and_announced_only() -> None:
    told: list[Any] = []
    journal = RunJournal("run-1", None, told.append)
    decide(journal, 1)
    decide(journal, 2)
    journal.close()
    assert [record["seq"] for record in told] == [1, 2]
    assert journal.last_seq == 2
