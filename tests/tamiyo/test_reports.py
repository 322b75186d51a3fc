"""Field reports: one for every command carried out, once, when its window closes."""

from typing import Any

import pytest
import torch

from esper_async.kasmina.gates import GateResult
from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.graft import Graft
from esper_async.kasmina.quantity import Quantity
from esper_async.kasmina.seed import Candidate, Seed, seed_stream
from esper_async.kasmina.sites import Site
from esper_async.kasmina.stage import Stage
from esper_async.tamiyo.reports import Costs, ReportBook

SITE = Site("here", "body", SiteInterface("feature", (8,)), "nf", 0)


def quantity(mean: float, half: float = 0.01) -> Quantity:
    return Quantity(mean, mean - half, mean + half, 64, "sample")


def seed(name: str, stage: Stage = Stage.TRAINING, **fields: Any) -> Seed:
    planted = Seed(
        id=name,
        site=SITE,
        candidate=Candidate("here", "BP021"),
        body=Graft(torch.nn.Identity(), form="nf", mode="residual"),
        optimizer=None,
        tournament="t1",
        born_boundary=4,
        stream=seed_stream(0, name),
        parameter_count=10,
    )
    planted.stage = stage
    for field, value in fields.items():
        setattr(planted, field, value)
    return planted


def book() -> ReportBook:
    reports = ReportBook("run-1", "heuristic", "1")
    reports.open(
        "c4", "GERMINATE", ["s1", "s2"], boundary=4, step=40, metrics={"validation_loss": 1.0}
    )
    return reports


def close(reports: ReportBook, *seeds: Seed, boundary: int = 9) -> list[dict[str, Any]]:
    known = {each.id: each for each in seeds}
    return reports.close_due(known, boundary=boundary, metrics={"validation_loss": 0.75})


def test_a_window_stays_open_while_candidates_train_or_the_trial_is_not_judged() -> None:
    reports = book()
    assert close(reports, seed("s1"), seed("s2")) == []
    assert close(reports, seed("s1", Stage.BLENDING), seed("s2", ended_boundary=8)) == []


def test_a_window_stays_open_until_the_verdict_however_many_judgements_that_takes() -> None:
    """A seed that is judged again may be kept after all: its report would tell a false outcome."""
    reports, lost = book(), seed("s2", ended_boundary=8)
    assert close(reports, seed("s1", Stage.PROBATIONARY, windows=2), lost) == []
    (report,) = close(reports, seed("s1", Stage.FOSSILIZED, windows=3), lost, boundary=15)
    assert (report["stage"], report["window"]["to"]) == ("FOSSILIZED", 15)


def test_a_kept_seed_is_a_success_told_once() -> None:
    reports = book()
    kept = seed("s1", Stage.FOSSILIZED, benefit_vs_twin=quantity(0.2), windows=1)
    lost = seed(
        "s2",
        Stage.CULLED,
        ended_boundary=8,
        clean_contribution=quantity(-0.1),
        gates=[GateResult("G2", False, "would harm", {}, 8)],
    )
    (report,) = close(reports, kept, lost)

    assert report["outcome"] == "SUCCESS"
    assert report["report_id"] == "run-1/c4"
    assert report["seed"] == "s1"
    assert report["benefit_vs_twin"]["mean"] == 0.2
    assert report["losers"][0]["failed_gate"] == "G2"
    assert report["observed_change"] == {"validation_loss": -0.25}
    assert report["window"] == {"from": 4, "to": 9}
    assert close(reports, kept, lost, boundary=10) == []


def test_a_judged_trial_that_harms_is_a_regression_and_one_that_does_neither_is_neutral() -> None:
    for benefit, outcome in ((-0.5, "REGRESSION"), (0.0, "NEUTRAL")):
        worse = seed(
            "s1", Stage.CULLED, windows=1, ended_boundary=9, benefit_vs_twin=quantity(benefit)
        )
        (report,) = close(book(), worse, seed("s2", Stage.CULLED, ended_boundary=8))
        assert report["outcome"] == outcome


def test_a_tournament_without_a_winner_is_neutral_and_claims_no_benefit() -> None:
    seeds = [seed(name, Stage.CULLED, ended_boundary=8) for name in ("s1", "s2")]
    (report,) = close(book(), *seeds)

    assert report["outcome"] == "NEUTRAL"
    assert report["benefit_vs_twin"] is None
    assert len(report["losers"]) == 1


def test_what_was_not_measured_is_absent_and_not_nought() -> None:
    (report,) = close(
        book(), seed("s1", Stage.CULLED, ended_boundary=8), seed("s2", ended_boundary=8)
    )
    assert report["clean_contribution"] is None
    assert report["dependence"] is None


def test_a_culls_window_has_a_fixed_length() -> None:
    reports = ReportBook("run-1", "operator", "1", cull_boundaries=3)
    reports.open("o5.1", "CULL", ["s1"], boundary=5, step=50, metrics={})
    gone = seed("s1", Stage.CULLED, ended_boundary=5)
    assert [bool(close(reports, gone, boundary=b)) for b in (5, 6, 7, 8, 9)] == [
        False,
        False,
        False,
        True,
        False,
    ]


def test_open_windows_survive_a_save_under_the_same_ids() -> None:
    reports, resumed = book(), ReportBook("run-1", "heuristic", "1")
    resumed.load_state_dict(reports.state_dict())
    kept = seed("s1", Stage.FOSSILIZED), seed("s2", ended_boundary=8)
    assert close(resumed, *kept) == close(reports, *kept) != []


@pytest.mark.parametrize("stage", [Stage.TRAINING, Stage.BLENDING])
def test_the_runs_end_closes_every_window(stage: Stage) -> None:
    reports = book()
    seeds = {"s1": seed("s1", stage), "s2": seed("s2")}
    (report,) = reports.close_all(seeds, boundary=6, metrics={})
    assert report["outcome"] == "NEUTRAL"
    assert reports.close_all(seeds, boundary=6, metrics={}) == []


def test_a_report_tells_the_stage_and_bills_what_its_window_cost() -> None:
    reports = ReportBook("run-1", "heuristic", "1")
    reports.open("c4", "GERMINATE", ["s1"], boundary=4, step=40, metrics={}, spent=(1_000.0, 100.0))
    kept = seed("s1", Stage.FOSSILIZED, windows=1, benefit_vs_twin=quantity(0.1))
    (told,) = reports.close_due(
        {"s1": kept}, boundary=9, metrics={}, costs=Costs(40, (3_000.0, 1_100.0))
    )
    assert (told["stage"], told["parameter_ratio"], told["compute_ratio"]) == (
        "FOSSILIZED",
        0.25,
        0.5,
    )


def test_what_a_window_cost_is_not_measured_where_nobody_counted() -> None:
    (told,) = close(book(), seed("s1", Stage.FOSSILIZED, windows=1), seed("s2", ended_boundary=8))
    assert told["compute_ratio"] is None
