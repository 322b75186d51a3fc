"""The final word on a run: `result.json`, replaced atomically."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper_async.runtime.files import write_json_atomically


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write `result.json` in a run's folder, durably."""
    write_json_atomically(folder / "result.json", result)
