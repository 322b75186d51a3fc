"""The final word on a run: `result.json`, replaced atomically."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write `result.json` in a run's folder, durably."""
    temporary = folder / ".result.json.part"
    with temporary.open("w") as file:
        json.dump(result, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / "result.json")
