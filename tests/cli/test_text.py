"""What people read: tables, quantities that say when they were not measured, the live view."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from esper_async.cli.client import Client
from esper_async.cli.failure import CommandError
from esper_async.cli.live_view import Snapshot, render
from esper_async.cli.output import Output, table
from esper_async.cli.run_text import (
    ONE_RUN,
    comparison_table,
    doing,
    parting_line,
    progress_line,
    quantity,
    quantity_named,
    refusal_lines,
    runs_table,
)
from esper_async.cli.up import go_on_command
from esper_async.supervisor.settings import Settings, SupervisorSettings

QUANTITY = {"mean": 0.031, "low": 0.012, "high": 0.05, "n": 300, "estimated": False}


def seed(**further: Any) -> dict[str, Any]:
    return {
        "id": "s-1", "site": "stem.1", "stage": "TRAINING", "blueprint": "BP015", "alpha": 0.0,
        "clean_contribution": None, "benefit_vs_twin": None, "dependence": None, **further,
    }  # fmt: skip


def run(**further: Any) -> dict[str, Any]:
    return {
        "id": "r-1", "name": "mine", "state": "running", "epoch": 3, "epochs": 10,
        "policy": "heuristic", "metrics": {"validation_loss": 0.5}, "seeds": [], "error": None,
        "overhead_ratio": None, **further,
    }  # fmt: skip


def shown(snapshot: Snapshot) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(render(snapshot))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_numbers_stand_flush_right_and_absent_is_a_dash() -> None:
    assert table(("NAME", "N"), [("a", 5), ("long", 1234), ("c", None)]) == [
        "NAME     N",
        "a        5",
        "long  1234",
        "c        -",
    ]
    assert table(("NAME",), []) == []


def test_what_was_not_measured_is_never_zero() -> None:
    assert quantity(None) == "not measured"
    assert quantity(QUANTITY) == "+0.0310 [+0.0120, +0.0500]"
    assert quantity({**QUANTITY, "estimated": True}).endswith("(estimated)")


def test_the_three_quantities_are_never_confused_and_dependence_never_shown_as_merit() -> None:
    assert quantity_named(seed(clean_contribution=QUANTITY)).startswith("clean +0.0310")
    both = seed(clean_contribution=QUANTITY, benefit_vs_twin={**QUANTITY, "mean": 0.2})
    assert quantity_named(both).startswith("benefit vs twin +0.2000")
    assert quantity_named(seed(dependence=QUANTITY)) == ""


def test_a_run_without_accuracy_shows_none() -> None:
    assert "acc" not in progress_line(run())
    assert "val loss 0.5000" in progress_line(run())
    accuracy = {"metrics": {"validation_accuracy": 0.75}, "primary_metric": "validation_accuracy"}
    with_it = run(**accuracy, seeds=[seed()], overhead_ratio=1.2)
    assert "val accuracy 0.7500" in progress_line(with_it)
    assert "seeds 1 training" in progress_line(with_it)
    assert "takes 1.20 times the host's own time" in progress_line(with_it)


def test_a_regression_shows_its_own_metric_and_one_judged_by_its_loss_none() -> None:
    metrics = {"validation_loss": 0.5, "validation_r2": 0.61}
    by_r2 = run(metrics=metrics, primary_metric="validation_r2")
    by_loss = run(metrics=metrics, primary_metric="validation_loss")
    assert "val r2 0.6100" in progress_line(by_r2)
    assert "r2 0.6100" in runs_table([by_r2])[1]
    assert "r2" not in progress_line(by_loss)
    assert runs_table([by_loss])[1].split()[-2:] == ["-", "0"]


def test_the_final_table_names_metric_interval_parameters_and_time_and_is_honest() -> None:
    row = {
        "name": "this run", "metric": "accuracy", "value": 0.91, "low": 0.88, "high": 0.94,
        "n": 360, "parameters": 1234, "wall_s": 61.2,
    }  # fmt: skip
    lines = comparison_table([row, {**row, "name": "static", "value": 0.85}])
    assert "test accuracy" in lines[0]
    assert "over samples" in lines[0]
    for word in ("this run", "0.9100", "[0.8800, 0.9400]", "1,234", "61.2 s"):
        assert word in lines[1]
    assert lines[-1] == ONE_RUN
    assert comparison_table([]) == []


def test_the_final_table_fits_eighty_columns() -> None:
    row = {
        "name": "the final net, from scratch", "metric": "accuracy", "value": 0.91, "low": 0.88,
        "high": 0.94, "n": 360, "parameters": 12_345_678, "wall_s": 12_345.6,
    }  # fmt: skip
    lines = comparison_table([row, {**row, "metric": "loss", "value": -10.0}])
    assert max(len(line) for line in lines) <= 80


@pytest.mark.parametrize(
    ("state", "drained", "says"),
    [
        ("running", True, "mine stopped at epoch 3 of 10 with a checkpoint; `again` goes on"),
        ("paused", True, "mine stopped at epoch 3 of 10 with a checkpoint; `again` goes on"),
        ("queued", None, "mine waits at epoch 3 of 10 (queued); `again` takes it up"),
        ("running", False, "mine was cut short at epoch 3 of 10; `again` goes on from its last "
                           "checkpoint and repeats the steps since"),
    ],
)  # fmt: skip
def test_at_the_end_an_unfinished_run_says_where_it_stands(
    state: str, drained: bool | None, says: str
) -> None:
    assert parting_line(run(state=state), drained=drained, again="again") == says


def test_the_way_on_names_a_state_directory_that_is_not_the_usual_one() -> None:
    assert go_on_command(Settings()) == "bin/esper-supervisor up"
    elsewhere = Settings(supervisor=SupervisorSettings(state_dir=Path("/data/esper")))
    assert go_on_command(elsewhere) == "bin/esper-supervisor up --state-dir /data/esper"


def test_while_it_stops_the_view_says_what_a_second_interrupt_does() -> None:
    running, stopping = (
        shown(Snapshot(url="", status=status, services={}, runs=[]))
        for status in ("ready", "stopping")
    )
    assert "Ctrl-C stops with a checkpoint" in running
    assert "stopping: Ctrl-C again cuts it short" in stopping
    assert "with a checkpoint" not in stopping


def test_a_refused_command_is_told_once_with_its_reason() -> None:
    notes = [
        {"kind": "command_refused", "seq": 3, "reason": "no checkpoint is that old"},
        {"kind": "paused", "seq": 4},
        {"kind": "command_refused", "seq": 5, "reason": "there is no seed s9"},
    ]
    assert refusal_lines("mine", notes, after_seq=3) == [
        "mine: a command was refused: there is no seed s9"
    ]


def test_the_list_of_runs_counts_kept_seeds() -> None:
    lines = runs_table([run(seeds=[seed(stage="FOSSILIZED"), seed(stage="CULLED")])])
    assert lines[1].split()[-1] == "1"
    assert "no runs yet" in runs_table([])[0]


def test_the_view_shows_runs_seeds_by_stage_alerts_and_the_address() -> None:
    text = shown(
        Snapshot(
            url="http://127.0.0.1:1/",
            status="degraded",
            services={"karn": {"state": "backing_off"}, "oona": {"state": "ready"}},
            runs=[run(seeds=[seed(stage="BLENDING", alpha=0.5), seed(stage="CULLED")])],
            alerts=[
                {"name": "disk_low", "summary": "1 GB left", "state": "firing", "level": "error"}
            ],
        )
    )
    for words in (
        "degraded", "http://127.0.0.1:1/", "✕ something is wrong", "✕ karn is backing off", "mine",
        "epoch 3/10", "stem.1", "depthwise separable", "blending", "alpha 0.50",
        "1 tried and removed", "disk_low: 1 GB left",
    ):  # fmt: skip
        assert words in text, words
    assert "oona" not in text


def test_the_view_says_that_all_is_well_when_it_is_and_who_has_seen_what_is_not() -> None:
    calm = Snapshot(url="", status="ready", services={"oona": {"state": "ready"}}, runs=[])
    assert "✓ all is well" in shown(calm)
    seen = {
        "name": "disk_low", "summary": "1 GB left", "state": "acknowledged", "level": "error",
        "acknowledged_by": "Ada",
    }  # fmt: skip
    text = shown(replace(calm, alerts=[seen]))
    assert "! worth a look" in text
    assert "Seen by Ada." in text


def test_the_view_says_by_which_policy_a_run_grows_and_what_it_costs_once_that_is_measured() -> (
    None
):
    def view(**further: Any) -> str:
        return shown(Snapshot(url="", status="ready", services={}, runs=[run(**further)]))

    terms = view(boundary_ms={"p50": 8.66, "p99": 42.0}, overhead_ratio=2.063)
    assert (
        "policy heuristic  boundary 8.7 ms, 99 % within 42.0 ms  takes 2.06 times the host's own"
        in terms
    )
    unknown = view(boundary_ms={"p50": None, "p99": None})
    assert "policy heuristic" in unknown
    assert "boundary" not in unknown
    assert "takes" not in unknown


def test_the_view_leaves_out_what_only_a_curve_can_tell() -> None:
    metrics = {"validation_loss": 0.5, "training_accuracy": 0.9, "averaged_loss": 0.4}
    text = shown(Snapshot("", "ready", {}, [run(metrics=metrics)]))
    assert "val loss 0.5000  train accuracy 0.9000" in text
    assert "averaged" not in text


def test_a_seed_whose_first_boundary_is_still_to_come_is_shown() -> None:
    planted = seed(stage="GERMINATED", blueprint=None, alpha=None)
    text = shown(Snapshot(url="", status="ready", services={}, runs=[run(seeds=[planted])]))
    assert "stem.1" in text
    assert "germinated" in text
    assert "alpha" not in text


def test_a_run_that_has_not_begun_says_what_it_is_at() -> None:
    nothing_yet = run(epoch=None, metrics={}, progress={"step": None})
    snapshot = Snapshot(url="", status="ready", services={}, runs=[nothing_yet])
    assert "starting its process" in shown(snapshot)
    proving = {"step": 0, "phase": "proving", "done": 3, "total": 52}
    snapshot = Snapshot(url="", status="ready", services={}, runs=[run(progress=proving)])
    assert "proving 3/52" in shown(snapshot)


def test_a_run_that_is_compared_says_so_everywhere() -> None:
    at = {"step": 80, "phase": "comparing: the host alone", "done": 4, "total": 10}
    compared = run(progress=at)
    words = "comparing: the host alone 4/10"
    assert words in shown(Snapshot(url="", status="ready", services={}, runs=[compared]))
    assert progress_line(compared).endswith(words)
    assert runs_table([compared])[-1] == f"mine is {words}"
    assert doing(run(progress={"step": 80, "boundary": 4})) is None
    assert doing(run(state="completed", progress={})) is None


def test_json_is_one_document_and_nothing_else() -> None:
    stream = io.StringIO()
    output = Output(as_json=True, stream=stream)
    output.line("for people")
    output.result({"a": 1}, ["for people"])
    assert json.loads(stream.getvalue()) == {"a": 1}


def test_no_colour_without_a_terminal() -> None:
    assert not Output(stream=io.StringIO()).color


def test_a_supervisor_that_does_not_answer_is_named() -> None:
    with pytest.raises(CommandError, match=r"http://127\.0\.0\.1:1 does not answer"):
        Client("http://127.0.0.1:1", None).get("/api/runs")
