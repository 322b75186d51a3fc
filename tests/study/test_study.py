"""A study from its plan to its page: run in children, resumed, cached, answered."""

import csv
import json
from pathlib import Path

import pytest

from esper_async.runtime.strict_model import ConfigurationError
from esper_async.study.cell import CellResult
from esper_async.study.command import run_study, unanswered
from esper_async.study.plan import Setting, load_plan

SMALL = Path(__file__).parent / "small_task.py"
PLAN = f"""
name = "small study"
question = "Does it run?"
decision = "It does if there are figures."
seeds = 2
first_seed = 5
resamples = 100

[tuning]
rates = [0.01, 0.03]
seeds = [50]

[tasks.small]
task = "{SMALL}:make_task"
epochs = 12
widest = 64

[arms.static]

[arms.growing]
policy = "heuristic"
rates = [0.01]
blueprints = ["BP014"]
[arms.growing.growth]
dwell_steps = 2
ramp_boundaries = 1
window_boundaries = 1
g2_margin = -100.0
g4_margin = -100.0
shadow_every = 1
parameter_budget = 50.0

[arms.longer]
kind = "longer"
than = "growing"

[arms.wide]
kind = "wide"
than = "growing"
rates = [0.01]

[arms.scratch]
kind = "scratch"
than = "growing"
rates = [0.01]

[arms."as often"]
kind = "matched"
than = "growing"
rates = [0.01]
blueprints = ["BP014"]
[arms."as often".growth]
dwell_steps = 2
ramp_boundaries = 1
window_boundaries = 1
g2_margin = -100.0
g4_margin = -100.0
shadow_every = 1
parameter_budget = 50.0

[arms."best of two"]
policy = "random"
draws = 2
rates = [0.01]
schedules = ["constant"]
blueprints = ["BP014"]
growth = {{ dwell_steps = 2, parameter_budget = 50.0 }}

[[comparisons]]
treated = "growing"
control = "static"
more_than = 1000.0

[[comparisons]]
treated = "growing"
control = "static"
by = "no gain"
more_than = 1000.0
tasks = ["small"]
most_parameters = 1.0
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(PLAN)
    return path


def edited(plan: Path, *changes: tuple[str, str]) -> Path:
    text = plan.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    plan.write_text(text)
    return plan


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.timeout(900)
def test_a_study_runs_every_arm_once_and_answers_what_was_asked(plan: Path, tmp_path: Path):
    told: list[str] = []
    result = run_study(plan, tmp_path / "studies", workers=2, nice=0, tell=told.append)
    findings = result.findings
    assert findings.failures == {}
    assert len(findings.runs) == 7 * 2
    kept = [run for (_, arm, _), run in findings.runs.items() if arm == "growing"]
    assert all(run.kept for run in kept)
    for seed in (5, 6):
        growing, longer, wide, scratch = (
            findings.runs["small", arm, seed] for arm in ("growing", "longer", "wide", "scratch")
        )
        assert scratch.parameters == growing.parameters
        assert abs(wide.parameters - growing.parameters) <= 20
        assert abs(longer.total_macs / growing.total_macs - 1) < 0.2
        assert longer.epochs > growing.epochs
        matched = findings.runs["small", "as often", seed]
        assert [count for _, count in matched.planted] == [count for _, count in growing.planted]
        assert matched.planted[0] == growing.planted[0]
    assert [each.holds for each in result.answers] == [False, False]
    assert result.answers[1].parameters is not None
    assert result.answers[1].parameters > 1
    assert unanswered(result.answers) == [
        "growing over static on small: this does not hold: lower bound > 1000",
        "growing over static on small: this does not hold: not lower bound > 1000, "
        "parameters ≤ 1 times",
    ]
    best = findings.settings["small", "best of two"]
    assert best in (Setting(0.01, "constant", 0), Setting(0.01, "constant", 1))
    tried = {setting for _, arm, setting in findings.tuning if arm == "best of two"}
    assert tried == {Setting(0.01, "constant", draw) for draw in (0, 1)}
    assert findings.settings["small", "static"] in (Setting(0.01), Setting(0.03))
    assert findings.plan.hash in told[0]
    document = json.loads((result.folder / "plan.json").read_text())
    assert document["hash"] == findings.plan.hash
    assert len(rows(result.folder / "runs.csv")) == 14
    assert len(rows(result.folder / "arms.csv")) == 7
    assert rows(result.folder / "comparisons.csv")[0]["holds"] == "False"
    page = (result.folder / "index.html").read_text()
    assert findings.plan.hash in page
    assert page.count("<svg") >= 5
    assert "http" not in page.replace("http-equiv", "")

    again = run_study(plan, tmp_path / "studies", workers=2, nice=0, tell=told.append)
    assert (again.ran, again.known) == (0, result.ran)
    assert again.findings.runs == findings.runs
    assert (again.folder / "index.html").read_text() == page


def few(plan: Path, factory: str, options: str = "") -> Path:
    start = plan.read_text()
    start = start[: start.index("[arms.static]")]
    start += "[arms.static]\nrates = [0.01]\n[arms.other]\nrates = [0.02]\n"
    start += '[[comparisons]]\ntreated = "other"\ncontrol = "static"\n'
    plan.write_text(
        start.replace(":make_task", f":{factory}")
        .replace("first_seed = 5", "first_seed = 0")
        .replace("epochs = 12", f"epochs = 1\noptions = {{{options}}}")
    )
    return plan


@pytest.mark.timeout(600)
def test_a_cell_over_which_its_worker_dies_is_tried_again(plan: Path, tmp_path: Path):
    few(plan, "make_mortal", f'marker = "{tmp_path / "died"}"')
    result = run_study(plan, tmp_path / "studies", workers=1, nice=0, tell=lambda _: None)
    assert (tmp_path / "died").exists()
    assert result.findings.failures == {}
    assert len(result.findings.runs) == 4


@pytest.mark.timeout(600)
def test_a_run_that_fails_is_named_and_the_others_go_on(plan: Path, tmp_path: Path):
    few(plan, "make_broken")
    result = run_study(plan, tmp_path / "studies", workers=1, nice=0, tell=lambda _: None)
    assert sorted(result.findings.failures) == [
        "other on small, rate 0.02, seed 1",
        "static on small, rate 0.01, seed 1",
    ]
    assert all("seed 1 is broken" in why for why in result.findings.failures.values())
    (answer,) = result.answers
    assert (answer.holds, answer.reason) == (None, "1 pairs on small have no result")
    assert "seed 1 is broken" in (result.folder / "index.html").read_text()
    again = run_study(plan, tmp_path / "studies", workers=1, nice=0, tell=lambda _: None)
    assert (again.known, len(again.findings.failures)) == (2, 2)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("seeds = 2", "seeds = 1", "seeds = 1"),
        ('than = "growing"', 'than = "growin"', "did you mean 'growing'?"),
        ('kind = "longer"', 'kind = "run"', "than = 'growing'"),
        ('treated = "growing"', 'treated = "nobody"', "a comparison names 'nobody'"),
        ("seeds = [50]", "seeds = [5]", "cannot judge it"),
        ("seeds = [50]", "", "no tuning.seeds"),
        ('tasks = ["small"]', 'tasks = ["large"]', "names the task 'large'; there are small"),
        ('policy = "random"', 'kind = "wide"\nthan = "growing"', "several draws are for"),
        (":make_task", "", "tasks.small.task"),
        ("small_task.py", "absent.py", "there is no file"),
        ("resamples = 100", "resample = 100", "did you mean 'resamples'?"),
        ("[tuning]", "[tuning", "it is not valid TOML"),
    ],
)
def test_a_plan_that_is_wrong_is_refused_with_what_would_be_right(
    plan: Path, old: str, new: str, says: str
):
    with pytest.raises(ConfigurationError, match=says.replace("?", r"\?")):
        load_plan(edited(plan, (old, new)))


def test_a_plan_that_cannot_be_read_is_refused(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_plan(tmp_path / "nowhere.toml")


def test_the_hash_is_of_what_the_plan_says_not_of_how_it_is_written(plan: Path):
    before = load_plan(plan).hash
    assert load_plan(edited(plan, ("resamples = 100", "# said so\nresamples = 100"))).hash == before
    assert load_plan(edited(plan, ("more_than = 1000.0", "more_than = 0.0"))).hash != before


def test_a_result_survives_its_own_text():
    result = CellResult(
        score=0.5, validation=0.25, parameters=10, epochs=3, steps=9, host_macs=1.0,
        shadow_macs=2.0, judging_macs=0.5, twin_macs=3.0, culled_macs=1.0, wall_s=0.5,
        peak_memory_bytes=7, history=({"epoch": 1},), kept=({"site": "s"},),
    )  # fmt: skip
    assert CellResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    assert result.total_macs == 6.5
