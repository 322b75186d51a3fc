"""`learn`, as a person types it: learned, judged by other runs and fresh ones, and exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from esper_async.simic.registry import PolicyRegistry
from esper_async.tamiyo.published import SHIPPED
from tests.simic.experienced import RUNS, experienced

TASK = Path(__file__).parents[1] / "study" / "xor_task.py"
GATE = f"""
name = "xor"
runs = 4
blueprints = ["BP003", "BP009"]
[growth]
dwell_steps = 2
ramp_boundaries = 1
window_boundaries = 1
shadow_every = 1
parameter_budget = 50.0
[tasks.xor]
task = "{TASK}:make_task"
epochs = 8
rate = 0.03
"""


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "esper_async.cli", "learn", *map(str, arguments)],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


@pytest.mark.timeout(600)
def test_what_is_learned_is_judged_by_other_runs_and_fresh_ones_and_all_is_kept(
    tmp_path: Path,
) -> None:
    experienced(tmp_path)
    gate = tmp_path / "gate.toml"
    gate.write_text(GATE)
    told = command("--state-dir", tmp_path, "--gate", gate, "--workers", 1, "--json")
    document = json.loads(told.stdout)
    assert told.returncode == (0 if document["passes"] else 1), told.stderr
    lineage = json.loads((tmp_path / "simic" / "awr.json").read_text())["lineage"]
    assert document["estimate"]["runs"] == RUNS - len(lineage["runs"])
    assert lineage["parent"] == document["active"] == SHIPPED
    assert f"--gate {gate}" in lineage["command"]
    kept = PolicyRegistry.of(tmp_path)
    assert kept.record(document["id"]).items() <= document.items()
    assert kept.book().active == ({"placement-1": document["id"]} if document["passes"] else {})
    assert len(document["replay"]["pairs"]) == 4
    again = command("--state-dir", tmp_path, "--gate", gate, "--workers", 1)
    if document["passes"]:
        assert "nothing new was learned" in again.stderr
    else:
        assert f"`policies show {document['id']}` has the whole record" in again.stdout
    assert "runs (" not in again.stderr  # none was made again


def test_without_experience_nothing_is_learned_and_a_wrong_gate_is_told_first(
    tmp_path: Path,
) -> None:
    nothing = command("--state-dir", tmp_path / "nowhere")
    assert nothing.returncode == 1
    assert "`collect FILE` gathers experience" in nothing.stderr
    wrong = command("--state-dir", tmp_path, "--gate", tmp_path / "none.toml")
    assert wrong.returncode == 2
    assert "none.toml" in wrong.stderr
