"""The runs of a state directory, as files: what was asked for, and how far it has come.

`run.json` is written once. `state.json` changes and is replaced atomically. The final word is the
training process's own `result.json`.
"""

import json
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from esper_async.runtime.files import write_json_atomically
from esper_async.tolaria.run_file import RunFile

RunState = Literal["queued", "running", "paused", "completed", "failed", "stopped"]
_REMOVED = ".removed-"
ENDED: frozenset[RunState] = frozenset({"completed", "failed", "stopped"})


class RunNotFoundError(KeyError):
    """There is no run of that id."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id = run_id

    def __str__(self) -> str:
        return f"there is no run {self.run_id!r}; `esper-supervisor runs` lists them"


class RunConflictError(RuntimeError):
    """The run is not in a state in which that can be done."""


@dataclass(slots=True)
class Run:
    """One run. `resumes` counts restarts of its training process; `error` says why it ended.

    `stop_asked` outlives the process that is told to stop, and this one.
    """

    id: str
    name: str
    created_at: float
    config: dict[str, Any]
    folder: Path
    state: RunState = "queued"
    error: str | None = None
    resumes: int = 0
    stop_asked: bool = False
    pid: int | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen in this run."""
        return self.state in ENDED

    def ended_at(self) -> float:
        """Return the Unix time of the last change of its state; raises OSError."""
        return (self.folder / "state.json").stat().st_mtime

    @property
    def result(self) -> dict[str, Any] | None:
        """What the training process wrote at its end, or None before that."""
        try:
            document = json.loads((self.folder / "result.json").read_text())
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) else None

    def summary(self) -> dict[str, Any]:
        """Return the JSON-able facts the supervisor itself knows about the run."""
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "created_at": self.created_at,
            "epochs": self.config["run"]["epochs"],
            "policy": self.config["growth"]["policy"],
            "error": self.error,
            "resumes": self.resumes,
            "pid": self.pid,
        }


class RunStore:
    """The folder `state_dir/runs`. Raises OSError when the disk refuses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs: dict[str, Run] = {}

    def load(self) -> list[Run]:
        """Read every run of the folder, oldest first; what has no readable run.json is no run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("[!.]*/run.json"):
            if path.parent.name not in self._runs:
                run = _read(path.parent)
                if run is not None:
                    self._runs[run.id] = run
        return self.all()

    def all(self) -> list[Run]:
        """Return the runs known, oldest first."""
        return sorted(self._runs.values(), key=lambda run: (run.created_at, run.id))

    def get(self, run_id: str) -> Run:
        """Return a run; raises RunNotFoundError."""
        if run_id not in self._runs:
            raise RunNotFoundError(run_id)
        return self._runs[run_id]

    def create(self, run_file: RunFile, now: float | None = None) -> Run:
        """Make the folder of a new run with its resolved configuration, and return the run."""
        created_at = time.time() if now is None else now
        day = time.strftime("%Y%m%d-%H%M%S", time.gmtime(created_at))
        run_id = f"{_slug(run_file.run.name)}-{day}-{secrets.token_hex(3)}"
        folder = self.folder / run_id
        for part in ("checkpoints", "spool"):
            (folder / part).mkdir(parents=True)
        config = run_file.model_dump(mode="json")
        run = Run(run_id, run_file.run.name, created_at, config, folder)
        document = {"id": run_id, "name": run.name, "created_at": created_at, "config": config}
        self.save(run)
        write_json_atomically(folder / "run.json", document)  # last: from here on it is a run
        self._runs[run_id] = run
        return run

    def remove(self, run: Run) -> None:
        """Take a run's folder off the disk; if this is killed half-way, it is no run any more."""
        shutil.rmtree(run.folder.rename(self.folder / f"{_REMOVED}{run.id}"))

    def clear_removed(self) -> None:
        """Take away what was left of a removal that was killed."""
        for folder in self.folder.glob(f"{_REMOVED}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def forget(self, run: Run) -> None:
        """Know a run no longer that was removed."""
        self._runs.pop(run.id, None)

    def save(self, run: Run) -> None:
        """Write the run's changing part."""
        state = {
            "state": run.state,
            "error": run.error,
            "resumes": run.resumes,
            "stop_asked": run.stop_asked,
        }
        write_json_atomically(run.folder / "state.json", state)


def _read(folder: Path) -> Run | None:
    try:
        document = json.loads((folder / "run.json").read_text())
        run = Run(
            document["id"], document["name"], document["created_at"], document["config"], folder
        )
        state = json.loads((folder / "state.json").read_text())
        run.state = cast(RunState, state["state"])
        run.error = state["error"]
        run.resumes = state["resumes"]
        run.stop_asked = state.get("stop_asked", False)  # an earlier version did not write it
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return run


def _slug(name: str) -> str:
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower())
    return "-".join(part for part in kept.split("-") if part)[:40] or "run"
