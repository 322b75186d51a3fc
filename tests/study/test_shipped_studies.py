"""The studies that come along are well-formed, and the short one answers yes."""

from pathlib import Path

import pytest

from esper_async.study.command import run_study, unanswered
from esper_async.study.plan import load_plan
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
