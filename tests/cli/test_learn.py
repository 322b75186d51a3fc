"""`learn`, as a person types it: what was learned, how it was judged, and exit codes."""

import json
import subprocess
import sys
from pathlib import Path

from tests.simic.experienced import RUNS, experienced


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "esper_async.cli", "learn", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_what_is_learned_is_judged_by_other_runs_and_both_are_kept(tmp_path: Path) -> None:
    experienced(tmp_path)
    told = command("--state-dir", tmp_path, "--json")
    assert told.returncode == 0, told.stderr
    document = json.loads(told.stdout)
    taught = json.loads((tmp_path / "simic" / "awr.json").read_text())["lineage"]["runs"]
    assert document["passes"] is True
    assert document["runs"] == RUNS - len(taught)
    record = json.loads((tmp_path / "simic" / "awr-record.json").read_text())
    assert record.items() <= document.items()
    output = tmp_path / "mine.json"
    told = command("--state-dir", tmp_path, "-o", output)
    assert f"placements of {len(taught)} runs" in told.stdout
    assert "of reward above placements drawn evenly [+" in told.stdout
    assert told.stdout.splitlines()[-1] == str(tmp_path / "mine-record.json")


def test_too_few_runs_judge_nothing_and_that_is_said(tmp_path: Path) -> None:
    experienced(tmp_path)
    told = command("--state-dir", tmp_path, "--keep-back", 0.1, "-o", tmp_path / "a.json")
    assert told.returncode == 1
    assert "nothing can be said of how good it is:\n  the " in told.stdout
    nothing = command("--state-dir", tmp_path / "nowhere")
    assert nothing.returncode == 1
    assert "`collect FILE` gathers experience" in nothing.stderr
