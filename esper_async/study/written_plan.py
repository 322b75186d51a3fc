"""Plans are written down before anything is run, each in a folder of its own."""

from pathlib import Path
from typing import Any, Protocol

from esper_async.runtime.files import write_json_atomically


class Plan(Protocol):
    """What has a name, and a hash of all that it says."""

    @property
    def name(self) -> str: ...

    @property
    def hash(self) -> str: ...

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


def folder_of(root: Path, plan: Plan) -> Path:
    """Return the folder of a plan under `root`: another plan has another."""
    return root / f"{plan.name.replace(' ', '-')}-{plan.hash[:8]}"


def write_plan(root: Path, plan: Plan) -> Path:
    """Write the plan down, and return its folder; one that is there already is the same."""
    folder = folder_of(root, plan)
    path = folder / "plan.json"
    if not path.exists():
        write_json_atomically(path, {"hash": plan.hash, "plan": plan.model_dump(mode="json")})
    return folder
