"""End to end: a user's own files, real processes, and what is left on disk afterwards."""

import hashlib
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from esper_async.drills.audit import tensors_of
from esper_async.runtime.journal import read_journal
from tests.cli.conftest import cli, environment, up  # noqa: F401 - fixtures

MODELS = Path(__file__).parent / "models"
EPOCHS = 16
GROWTH = {"dwell_steps": 9, "ramp_boundaries": 2, "window_boundaries": 2}
_GROW = """
import json, sys
from pathlib import Path
from esper_async import grow
from esper_async.tolaria import global_random
from esper_async.tolaria.task_source import load_task
source, folder, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
global_random.seed_everything(options["seed"])
task = load_task(source, {}, seed=options["seed"])
grow(task, state_dir=folder / "state", folder=folder / "run", progress=False, **options)
"""


def run_of(model: str, **further: Any) -> dict[str, Any]:
    """A short run of one of the models, quick to grow."""
    task = f"{MODELS / model}.py:make_task"
    section = {"name": model, "task": task, "epochs": EPOCHS, "seed": 3, "threads": 1, **further}
    return {"run": section, "growth": dict(GROWTH)}


def as_toml(run: dict[str, Any]) -> str:
    """The run as a user would have written it."""
    lines = []
    for section, values in run.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def only_run(state_dir: Path) -> Path:
    """The folder of the one run in a state directory."""
    (folder,) = (state_dir / "runs").iterdir()
    return folder


def records(run_folder: Path, kind: str) -> list[dict[str, Any]]:
    """The journal's records of one kind."""
    journal = read_journal(run_folder / "journal.jsonl")
    return [dict(record) for record in journal if record["kind"] == kind]


def stored_reports(state_dir: Path) -> list[str]:
    """The ids of the field reports in Simic's store, in order of arrival."""
    path = state_dir / "simic" / "experience.sqlite"
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT id FROM experiences WHERE kind = 'report' ORDER BY seq")
        return [str(row[0]) for row in rows]


def rejected(state_dir: Path) -> int:
    """How many messages Simic's store refused."""
    path = state_dir / "simic" / "experience.sqlite"
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT COUNT(*) FROM rejected").fetchone()[0])


def digest(run_folder: Path) -> str:
    """A hash over every tensor of the last checkpoint: weights, buffers, optimizers, twins."""
    from esper_async.tolaria.checkpoint import CheckpointStore

    loaded = CheckpointStore(run_folder / "checkpoints").load_latest()
    assert loaded is not None
    seen = hashlib.sha256()
    count = 0
    for path, tensor in tensors_of(loaded[1]["grower"], ""):
        seen.update(f"{path} {tensor.dtype} {tuple(tensor.shape)}".encode())
        seen.update(tensor.contiguous().view(-1).numpy().tobytes())
        count += 1
    assert count > 10
    return seen.hexdigest()


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table run through `grow`, in a process of its own that nobody disturbed: its folder."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run = run_of("table_mlp")
    options = {key: run["run"][key] for key in ("epochs", "seed", "threads", "name")}
    source = run["run"]["task"]
    subprocess.run(
        [
            sys.executable,
            "-c",
            _GROW,
            source,
            str(folder),
            json.dumps({**options, "growth": GROWTH}),
        ],
        check=True,
        env=environment(),
        timeout=240,
    )
    return folder / "run"
