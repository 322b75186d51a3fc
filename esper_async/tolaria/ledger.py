"""What a run remembers record by record, and what a checkpoint has of it: text, in few pieces.

As objects all that was ever told would be walked, copied and pickled at each checkpoint: the longer
a run, the dearer its boundaries.
"""

import json
from collections.abc import Sequence
from typing import Any

_PIECE_RECORDS = 256


class Ledger:
    """Records in order; nobody but `append` and `load` may change them.

    Args:
        most: how many of the newest are remembered; all if None.

    Attributes:
        records: those that are remembered, oldest first.
    """

    def __init__(self, most: int | None = None) -> None:
        self.records: list[dict[str, Any]] = []
        self._most = most
        self._sealed: list[str] = []
        self._open: list[str] = []

    def append(self, record: dict[str, Any]) -> None:
        """Add the newest record. Raises TypeError for one that is not JSON."""
        self._open.append(json.dumps(record, separators=(",", ":")))
        self.records.append(record)
        if len(self._open) == _PIECE_RECORDS:
            self._sealed.append(_piece(self._open))
            self._open = []
        self._forget()

    def state(self) -> list[str]:
        """Return the records as text; some that are not remembered any more may be among them."""
        return [*self._sealed, _piece(self._open)]

    def load(self, state: Sequence[str]) -> None:
        """Take over what `state` returned, in place of what there was."""
        *sealed, last = state
        newest = json.loads(last)
        self._sealed = list(sealed)
        self._open = [json.dumps(record, separators=(",", ":")) for record in newest]
        self.records[:] = [record for piece in sealed for record in json.loads(piece)] + newest
        self._forget()

    def _forget(self) -> None:
        if self._most is None:
            return
        del self.records[: -self._most]
        while len(self._sealed) * _PIECE_RECORDS + len(self._open) >= self._most + _PIECE_RECORDS:
            del self._sealed[0]


def _piece(records: Sequence[str]) -> str:
    return f"[{','.join(records)}]"
