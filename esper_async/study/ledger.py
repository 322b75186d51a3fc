"""Results on disk, one file each, named by all that they depend on. Only whole runs are kept."""

import hashlib
import json
from pathlib import Path

import esper_async
from esper_async.runtime.files import write_atomically
from esper_async.study.cell import Cell, CellResult
from esper_async.tezzeret.fingerprint import installed_torch

_TRAINS = ("kasmina", "tamiyo", "tolaria", "tasks")
_STUDY = (
    "ablations.py", "bench/breaking.py", "cell.py", "matched.py", "metering.py", "oracle.py",
    "replanting.py", "running.py", "shuffled_labels.py", "sizing.py", "timing.py",
)  # fmt: skip


def code_fingerprint(package: Path | None = None) -> str:
    """A text that differs once torch or the code that trains has changed.

    A comment counts as well: a run that is repeated for nothing is cheaper than one that is not
    what it is said to be.
    """
    home = package or Path(esper_async.__file__).parent
    paths = [path for name in _TRAINS for path in (home / name).rglob("*.py")]
    paths += [home / "study" / name for name in _STUDY]
    digest = hashlib.sha256(installed_torch().encode())
    for path in sorted(paths):
        digest.update(path.relative_to(home).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


class Ledger:
    """Results under `folder`; several processes may write it. Methods may raise OSError."""

    def __init__(self, folder: Path, code: str) -> None:
        self._folder = folder
        self._code = code

    def read(self, cell: Cell) -> CellResult | None:
        """The result of a cell; None when there is none that can be read."""
        try:
            document = json.loads(self.path(cell).read_bytes())
            return CellResult.from_json(document["result"])
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def write(self, cell: Cell, result: CellResult) -> None:
        """Keep the result of a cell, durable when this returns."""
        document = {"cell": cell.label, "result": result.to_json()}
        write_atomically(self.path(cell), json.dumps(document).encode())

    def path(self, cell: Cell) -> Path:
        """Where the result of a cell is, once there is one."""
        key = cell.key(self._code)
        return self._folder / key[:2] / f"{key}.json"
