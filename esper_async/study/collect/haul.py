"""What a run of a collection leaves behind: its decision records and field reports, in a file.

The file lies beside the run's result and has the same name. It is written first, so that a run
whose result is known has its experience, too.
"""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from esper_async.leyline import DecisionRecord, FieldReport
from esper_async.runtime.files import write_atomically
from esper_async.study.cell import Cell, CellResult
from esper_async.study.ledger import Ledger

VERSION = 1
Told = DecisionRecord | FieldReport


class CollectedLedger(Ledger):
    """Results of runs with their experience; a run without its experience is not known."""

    def __init__(self, folder: Path, code: str) -> None:
        super().__init__(folder, f"{code}-haul{VERSION}")

    def read(self, cell: Cell) -> CellResult | None:
        """Return the result of a cell; None when it or its experience cannot be read."""
        result = super().read(cell)
        return None if result is None or self.haul(cell) is None else result

    def haul(self, cell: Cell) -> list[Told] | None:
        """Return what a run told, in order; None when there is nothing that can be read."""
        try:
            rows = json.loads(self._haul_path(cell).read_bytes())
            return [_KINDS[kind].FromString(base64.b64decode(told)) for kind, told in rows]
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def write_haul(self, cell: Cell, messages: Sequence[Told]) -> None:
        """Keep what a run told, durable when this returns."""
        rows = [
            (message.DESCRIPTOR.name, base64.b64encode(message.SerializeToString()).decode())
            for message in messages
        ]
        write_atomically(self._haul_path(cell), json.dumps(rows).encode())

    def run_id(self, cell: Cell) -> str:
        """Return the name of a cell's run in its records: the same whenever it is made again."""
        return f"collected-{self.path(cell).stem[:20]}"

    def _haul_path(self, cell: Cell) -> Path:
        return self.path(cell).with_suffix(".experience")


_KINDS: dict[str, type[DecisionRecord] | type[FieldReport]] = {
    "DecisionRecord": DecisionRecord,
    "FieldReport": FieldReport,
}
