"""How good a run's risk predictions were is told from its records alone."""

import subprocess
import sys
from typing import Any

import pytest

from esper_async.tamiyo.risk.scoring import score_risk, score_text


def decision(boundary: int, level: str, score: float) -> dict[str, Any]:
    risk = {"level": level, "score": score}
    return {"kind": "decision", "boundary": boundary, "risk": risk}


def boundary(number: int, loss: float | None = 1.0) -> dict[str, Any]:
    return {"kind": "boundary", "boundary": number, "metrics": {"validation_loss": loss}}


def test_a_warning_before_trouble_is_worth_more_than_one_without() -> None:
    good = [decision(1, "GREEN", 0.1), boundary(1), decision(5, "RED", 0.9), boundary(5)]
    trouble = {"kind": "emergency", "boundary": 6, "level": "SEVERE"}
    told = score_risk([*good, trouble])
    assert (told.boundaries, told.went_wrong) == (2, 1)
    assert told.auc == 1.0
    assert told.brier == pytest.approx(0.01)
    assert told.base_brier == pytest.approx(0.25)
    assert [(c.told, c.went_wrong) for c in told.levels if c.told] == [(1, 0), (1, 1)]
    assert any("RED" in line for line in score_text(told))


@pytest.mark.parametrize(
    "record",
    [
        boundary(6, 2.0),
        boundary(6, None),
        {"kind": "rollback", "boundary": 6},
        {"kind": "transition", "boundary": 6, "from_stage": "BLENDING", "to_stage": "CULLED"},
    ],
)
def test_what_counts_as_trouble(record: dict[str, Any]) -> None:
    told = score_risk([boundary(4), decision(5, "GREEN", 0.0), record])
    assert told.went_wrong == 1


def test_what_comes_long_after_or_is_an_ordinary_cull_is_no_trouble() -> None:
    cull = {"kind": "transition", "boundary": 6, "from_stage": "TRAINING", "to_stage": "CULLED"}
    late = {"kind": "rollback", "boundary": 12}
    assert score_risk([decision(5, "GREEN", 0.0), cull, late]).went_wrong == 0


def test_a_run_without_assessments_is_not_scored() -> None:
    told = score_risk([boundary(1)])
    assert told.brier is None
    assert told.auc is None
    assert "no risk was told" in score_text(told)[0]


def test_scoring_needs_no_torch() -> None:
    code = "import sys, esper_async.tamiyo.risk.scoring; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
