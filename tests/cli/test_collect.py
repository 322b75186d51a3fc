"""`collect FILE`, as a person types it: what was stored, and exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = Path(__file__).parents[1] / "study" / "small_task.py"


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "esper_async.cli", "collect", *map(str, arguments)],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("function", "code"), [("make_task", 0), ("make_broken", 1)])
def test_a_collection_says_what_it_stored_and_fails_where_a_run_failed(
    tmp_path: Path, function: str, code: int
):
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f'name = "one"\nruns = 2\nfirst_seed = 0\nbaseline = false\n'
        f'[tasks.small]\ntask = "{SMALL}:{function}"\nepochs = 2\n'
    )
    told = command(plan, "--state-dir", tmp_path / "state", "--json", "--workers", 1)
    assert told.returncode == code, told.stderr
    document = json.loads(told.stdout)
    assert document["ran"] == 2
    assert document["messages"]["stored"] > 0
    assert ("seed 1 is broken" in told.stderr) is bool(code)
