"""The picture of a run: what the fold keeps, repeats and refuses."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_async.tamiyo.errors import MalformedRecordError
from esper_async.tamiyo.picture import Fold, RunPicture

Record = dict[str, Any]


def record(seq: int, kind: str, boundary: int = 0, **more: Any) -> Record:
    place = {"time": 1000.0 + seq, "run": "r", "boundary": boundary, "step": 0, "epoch": boundary}
    return {"seq": seq, "kind": kind, **place, **more}


def started(seq: int = 1) -> Record:
    return record(seq, "run_started", name="digits", policy="heuristic", epochs=30)


def boundary(seq: int, number: int, loss: float = 1.0, seeds: list[Record] | None = None) -> Record:
    return record(
        seq, "boundary", number, metrics={"validation_loss": loss}, seeds=seeds or [],
        boundary_ms={"total": float(number)}, overhead_ratio=1.02, shadow_cost_ratio=0.4,
    )  # fmt: skip


def seed(stage: str, **more: Any) -> Record:
    return {"id": "s1", "site": "block.0", "stage": stage, "blueprint": "BP009", **more}


def told(*records: Record) -> RunPicture:
    picture = RunPicture("r")
    for item in records:
        assert picture.fold(item) is Fold.APPLIED
    return picture


def test_a_run_without_records_is_queued_and_has_no_metrics() -> None:
    summary = RunPicture("r").summary()
    assert summary["state"] == "queued"
    assert summary["metrics"] == {}
    assert summary["boundary_ms"] == {"p50": None, "p99": None}
    assert summary["overhead_ratio"] is None


def test_the_summary_has_the_fields_that_the_interface_promises() -> None:
    assert list(told(started()).summary()) == [
        "id", "name", "state", "epoch", "epochs", "policy", "metrics", "seeds", "boundary_ms",
        "overhead_ratio", "created_at", "error", "primary_metric",
    ]  # fmt: skip


def test_a_boundary_tells_what_growing_has_cost_so_far() -> None:
    (row,) = told(started(), boundary(2, 1)).view()["rows"]
    assert (row["overhead_ratio"], row["shadow_cost_ratio"]) == (1.02, 0.4)


def test_a_record_folded_twice_changes_nothing() -> None:
    picture = told(started(), boundary(2, 1))
    before = picture.view()
    assert picture.fold(boundary(2, 1, loss=9.0)) is Fold.REPEATED
    assert picture.view() == before


def test_a_record_that_comes_too_early_is_a_gap_and_is_not_folded() -> None:
    picture = told(started())
    assert picture.fold(boundary(3, 1)) is Fold.GAP
    assert picture.rows == []
    assert picture.seq == 1


def test_a_boundary_told_again_replaces_itself_and_what_followed() -> None:
    picture = told(started(), boundary(2, 1), boundary(3, 2), boundary(4, 3), boundary(5, 2, 0.5))
    assert [row["boundary"] for row in picture.rows] == [1, 2]
    assert picture.summary()["metrics"] == {"validation_loss": 0.5}


def test_a_quantity_that_was_not_measured_stays_none_and_a_measured_one_is_kept() -> None:
    benefit = {"mean": 0.02, "low": 0.01, "high": 0.03, "n": 10}
    picture = told(
        started(),
        boundary(2, 1, seeds=[seed("TRAINING")]),
        boundary(3, 2, seeds=[seed("PROBATIONARY", benefit_vs_twin=benefit)]),
        boundary(4, 3, seeds=[seed("PROBATIONARY")]),
    )
    shown = picture.summary()["seeds"][0]
    assert shown["benefit_vs_twin"] == benefit
    assert shown["dependence"] is None


def test_a_transition_adds_to_the_lane_and_its_gate_to_the_gates() -> None:
    gate = {"name": "G1", "passed": False, "reason": "not finite", "numbers": {}}
    move = {"seed": "s1", "site": "block.0", "blueprint": "BP009"}
    picture = told(
        started(),
        record(2, "transition", 1, **move, from_stage="DORMANT", to_stage="TRAINING", gate=None),
        record(3, "transition", 2, **move, from_stage="TRAINING", to_stage="CULLED", gate=gate),
    )
    shown = picture.view()["seeds"][0]
    assert [entry["to_stage"] for entry in shown["lane"]] == ["TRAINING", "CULLED"]
    assert shown["gates"] == [gate]
    assert shown["stage"] == "CULLED"
    assert shown["alpha"] is None


def test_a_rollback_takes_back_the_stages_that_came_after_its_target() -> None:
    move = {"seed": "s1", "site": "block.0", "blueprint": "BP009", "gate": None}
    picture = told(
        started(),
        record(2, "transition", 1, **move, from_stage="DORMANT", to_stage="TRAINING"),
        record(3, "transition", 5, **move, from_stage="TRAINING", to_stage="BLENDING"),
        record(4, "rollback", 6, to_boundary=3, reason="the loss is not finite"),
    )
    assert picture.seeds["s1"].stage == "TRAINING"


def test_a_refused_command_is_among_the_notes_with_its_reason() -> None:
    picture = told(started(), record(2, "command_refused", 1, reason="no checkpoint", request=1))
    (note,) = (note for note in picture.view()["notes"] if note["kind"] == "command_refused")
    assert (note["reason"], note["request"]) == ("no checkpoint", 1)


def test_an_explanation_joins_its_decision_and_is_news_to_who_has_the_decision_already() -> None:
    moved = [{"node": "run", "feature": "gap/1", "effect": 0.25}]
    explanation = {"command_id": "c1", "moved": moved}
    picture = told(
        started(),
        record(2, "decision", 1, command={"id": "c1"}, reason="likely"),
        record(3, "decision", 2, command={"id": "c2"}, reason="likely"),
        record(4, "explanation", 2, **explanation),
        record(5, "explanation", 2, **explanation),  # told twice under new numbers
    )
    assert [each["moved"] for each in picture.decisions] == [moved, None]
    news = picture.view(after_seq=3)
    assert news["decisions"] == []
    assert [(each["seq"], each["command_id"], each["moved"]) for each in news["explanations"]] == [
        (4, "c1", moved)
    ]


def test_a_decision_or_report_told_twice_under_new_numbers_is_kept_once() -> None:
    decision = {"command": {"id": "c1"}, "reason": "plateau"}
    report = {"report_id": "f1", "outcome": "SUCCESS"}
    picture = told(
        started(),
        record(2, "decision", 1, **decision),
        record(3, "field_report", 1, **report),
        record(4, "decision", 1, **decision),
        record(5, "field_report", 1, **report),
    )
    assert len(picture.decisions) == 1
    assert len(picture.field_reports) == 1


@pytest.mark.parametrize("state", ["completed", "failed", "stopped"])
def test_an_ended_run_shows_how_it_ended_and_a_resume_takes_that_back(state: str) -> None:
    picture = told(started(), record(2, "run_ended", 9, state=state, error="why"))
    assert (picture.state, picture.error) == (state, "why")
    picture.fold(record(3, "resumed", 9, from_boundary=8, bitwise=True, reason="asked to"))
    assert (picture.state, picture.error, picture.end) == ("running", None, None)


@pytest.mark.parametrize(
    "broken",
    [
        record(2, "boundary", 1, seeds=[]),
        record(2, "transition", 1, seed="s1"),
        record(2, "run_ended", 1, state="sleeping"),
        record(2, "boundary", 1, metrics={}, seeds=None),
    ],
)
def test_a_record_that_lacks_what_it_must_carry_is_refused_aloud_and_listed(broken: Record) -> None:
    picture = told(started())
    with pytest.raises(MalformedRecordError, match="record 2"):
        picture.fold(broken)
    assert len(picture.view()["faults"]) == 1
    assert picture.fold(boundary(3, 1)) is Fold.APPLIED


def test_a_kind_from_the_future_is_passed_over() -> None:
    picture = told(started(), record(2, "hologram", 1), boundary(3, 1))
    assert picture.seq == 3


def test_percentiles_are_those_of_the_boundaries_own_time() -> None:
    picture = told(started(), *(boundary(n + 1, n) for n in range(1, 101)))
    assert picture.boundary_percentiles() == {"p50": 50.0, "p99": 99.0}


@given(st.integers(0, 12), st.lists(st.integers(1, 14), max_size=20))
def test_a_view_and_the_changes_after_it_make_the_view_of_the_whole(
    cut: int, numbers: list[int]
) -> None:
    records = [started()] + [boundary(i + 2, number) for i, number in enumerate(numbers)]
    picture = told(*records[:cut])
    rows = list(picture.view()["rows"])
    seen = picture.seq
    for item in records[cut:]:
        picture.fold(item)
    for row in picture.view(seen)["rows"]:
        rows = [old for old in rows if old["boundary"] < row["boundary"]]
        rows.append(row)
    assert rows == picture.rows
