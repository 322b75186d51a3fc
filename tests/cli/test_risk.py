"""`runs risk`: a run's risk predictions, scored from its journal, with no supervisor."""

import json
import subprocess
import sys
from pathlib import Path

from esper_async.runtime.journal import Journal


def risk(state_dir: Path, run: str, *flags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "esper_async.cli", "runs", "risk", run]
    return subprocess.run(
        [*command, "--state-dir", str(state_dir), *flags],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def journaled(state_dir: Path, run: str) -> None:
    folder = state_dir / "runs" / run
    folder.mkdir(parents=True)
    journal = Journal.open(folder / "journal.jsonl")
    for boundary, level, score in ((1, "GREEN", 0.1), (2, "RED", 0.9)):
        told = {"level": level, "score": score}
        journal.append({"kind": "decision", "boundary": boundary, "risk": told})
    journal.append({"kind": "rollback", "boundary": 4})
    journal.close()


def test_a_runs_predictions_are_scored(tmp_path: Path) -> None:
    journaled(tmp_path, "r1")
    told = risk(tmp_path, "r1")
    assert told.returncode == 0, told.stderr
    assert "2 boundaries, 1 of them within 3 boundaries of trouble" in told.stdout
    as_json = json.loads(risk(tmp_path, "r1", "--json").stdout)
    assert as_json["auc"] == 1.0


def test_a_run_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    journaled(tmp_path, "r1")
    told = risk(tmp_path, "r2")
    assert told.returncode == 2
    assert "no run 'r2'" in told.stderr
    assert "r1" in told.stderr
