"""What operators ask of a run, on disk: a request that was accepted outlives both processes.

The supervisor writes a request into the run's folder before it accepts it, and tells the training
process over their link. A training process that starts reads what there is. Its journal names the
number of each request that was met, so that none is met twice.
"""

from contextlib import closing
from pathlib import Path

from esper_async.runtime.journal import Journal, read_journal
from esper_async.tolaria.control import Lasting, Steer, steer_of

FILE = "requests.jsonl"


def accept(folder: Path, kind: Lasting, now: float, **fields: object) -> int:
    """Write a request to the run in `folder` durably and return its number, from 1.

    Raises:
        OSError: the disk refused; nothing is accepted.
    """
    with closing(Journal.open(folder / FILE)) as file:
        return file.append({"kind": kind, "time": now, **fields})


def accepted(folder: Path) -> list[Steer]:
    """Return every request ever accepted for the run in `folder`, oldest first."""
    return [
        steer_of(record["kind"], {**record, "request": record["seq"]})
        for record in read_journal(folder / FILE)
    ]
