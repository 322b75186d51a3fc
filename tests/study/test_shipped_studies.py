"""The studies that come along are well-formed, and the short ones find what they look for."""

from dataclasses import replace
from pathlib import Path

import pytest

from esper_async.simic.bandit import learn_belief
from esper_async.simic.lessons import Lessons
from esper_async.study.command import run_study, unanswered
from esper_async.study.plan import load_plan
from esper_async.tamiyo.policies.linear_belief import LinearBelief
from tests.cli.conftest import ROOT

STUDIES = sorted((ROOT / "config" / "studies").glob("*.toml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_shipped_plan_is_one(path: Path):
    plan = load_plan(path)
    assert plan.comparisons


@pytest.mark.full
@pytest.mark.timeout(900)
def test_the_short_study_finds_that_growing_helps(tmp_path: Path):
    path = ROOT / "config" / "studies" / "short.toml"
    result = run_study(path, tmp_path, nice=0, tell=lambda _: None)
    assert result.findings.failures == {}
    assert unanswered(result.answers) == []


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_policy_made_from_scratch_grows_well_and_one_taught_the_reverse_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = ROOT / "config" / "studies" / "learned-short.toml"
    result = run_study(path, tmp_path, nice=0, tell=lambda _: None)
    assert result.findings.failures == {}
    assert unanswered(result.answers) == []

    def learn_the_reverse(lessons: Lessons) -> LinearBelief:
        return learn_belief(replace(lessons, outcomes=-lessons.outcomes))

    monkeypatch.setattr("esper_async.simic.learn.learn_belief", learn_the_reverse)
    mutant = run_study(path, tmp_path, nice=0, tell=lambda _: None)
    assert mutant.findings.failures == {}
    assert unanswered(mutant.answers) != []
