"""`study FILE`, as a person types it: answers, the plan's hash, and exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = Path(__file__).parents[1] / "study" / "small_task.py"
PLAN = f"""
name = "two rates"
question = "Is there a difference?"
decision = "The interval says."
seeds = 2
resamples = 100
[tuning]
rates = [0.01]
[tasks.small]
task = "{SMALL}:make_task"
epochs = 1
[arms.slow]
[arms.quick]
rates = [0.02]
[[comparisons]]
treated = "quick"
control = "slow"
more_than = 1000.0
"""


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "esper_async.cli", "study", *map(str, arguments)],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


@pytest.mark.timeout(600)
def test_a_study_is_answered_and_with_check_its_answer_is_the_exit_code(tmp_path: Path):
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    told = command(plan, "--state-dir", tmp_path / "state", "--json", "--workers", 1)
    assert told.returncode == 0, told.stderr
    document = json.loads(told.stdout)
    assert (document["ran"], document["known"]) == (4, 0)
    assert document["answers"][0]["holds"] is False
    assert f"plan {document['plan_hash']} is written" in told.stderr
    assert Path(document["folder"], "index.html").is_file()

    again = command(plan, "--state-dir", tmp_path / "state", "--check")
    assert again.returncode == 1
    assert f"plan {document['plan_hash']}" in again.stdout
    assert "0 runs made, 4 known before" in again.stdout
    assert "quick over slow on small: this does not hold: lower bound > 1000" in again.stderr


@pytest.mark.timeout(600)
def test_a_study_is_repeated_with_other_seeds_and_held_against_the_first_time(tmp_path: Path):
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    given = (plan, "--state-dir", tmp_path / "state", "--json", "--workers", 1)
    first = json.loads(command(*given).stdout)
    told = command(*given, "--first-seed", 1)
    assert told.returncode == 0, told.stderr
    again = json.loads(told.stdout)
    assert first["overlap"] is None
    assert 0 <= again["overlap"] <= 1
    assert (again["ran"], again["known"]) == (2, 2)  # seed 1 was the second of the first time
    assert again["plan_hash"] != first["plan_hash"]


def test_a_plan_that_is_wrong_is_a_wrong_request_and_those_before_it_are_not_run(tmp_path: Path):
    right, wrong = tmp_path / "right.toml", tmp_path / "wrong.toml"
    right.write_text(PLAN)
    wrong.write_text(PLAN.replace("resamples", "resample"))
    told = command(right, wrong, "--state-dir", tmp_path / "state")
    assert told.returncode == 2
    assert "did you mean 'resamples'?" in told.stderr
    assert not (tmp_path / "state").exists()
