"""A repeated study: which intervals have a value in common."""

from pathlib import Path

import pytest

from esper_async.runtime.strict_model import ConfigurationError
from esper_async.study.plan import StudyPlan, with_first_seed
from esper_async.study.repetition import overlap

ARMS = "task,arm,low,high\n"
COMPARISONS = "treated,control,task,low,high,rule\n"


def folder(path: Path, arms: str, comparisons: str = "") -> Path:
    path.mkdir()
    (path / "arms.csv").write_text(ARMS + arms)
    (path / "comparisons.csv").write_text(COMPARISONS + comparisons)
    return path


def test_intervals_that_touch_overlap_and_those_of_one_side_alone_are_not_counted(tmp_path: Path):
    first = folder(tmp_path / "first", "t,a,1,2\nt,b,1,2\nt,c,1,2\nt,d,,\n", "a,b,t,-1,1,r\n")
    again = folder(tmp_path / "again", "t,a,2,3\nt,b,2.5,3\nt,d,1,2\nt,e,1,2\n", "a,b,t,0,3,r\n")
    found = overlap(again, first)
    assert (found.overlapping, found.count) == (2, 3)
    assert found.share == pytest.approx(2 / 3)


def test_where_nothing_can_be_compared_there_is_no_share(tmp_path: Path):
    assert overlap(folder(tmp_path / "one", ""), folder(tmp_path / "other", "")).share is None


def test_other_seeds_make_another_study_and_none_of_them_may_have_tuned():
    plan = StudyPlan.model_validate(
        {
            "name": "n", "question": "q", "decision": "d", "seeds": 2,
            "tuning": {"rates": [0.1], "seeds": [50]},
            "tasks": {"t": {"task": "module:make", "epochs": 1}}, "arms": {"a": {}},
        }
    )  # fmt: skip
    again = with_first_seed(plan, 10)
    assert again.seeds_of_runs == (10, 11)
    assert again.hash != plan.hash
    with pytest.raises(ConfigurationError, match="cannot judge it"):
        with_first_seed(plan, 49)
