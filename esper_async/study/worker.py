"""A study's worker process: torch imported once, then cells, one at a time, into the ledger."""

from collections.abc import Callable
from pathlib import Path

import torch

from esper_async.runtime.child_main import ChildLink
from esper_async.runtime.logging import configure_logging
from esper_async.study.cell import Cell
from esper_async.study.ledger import Ledger
from esper_async.study.running import run_cell
from esper_async.urza import Library

_POLL_S = 0.05


def work(link: ChildLink, *, cells: str, code: str, library: str) -> int:
    """Run what the parent asks for until it says stop; the target of its child."""
    ledger = Ledger(Path(cells), code)
    return serve(
        link, lambda cell, store: ledger.write(cell, run_cell(cell, store)), library=library
    )


def serve(link: ChildLink, perform: Callable[[Cell, Library], None], *, library: str) -> int:
    """Perform the cells that the parent asks for until it says stop.

    What a cell raises is told, and the worker goes on with the next.
    """
    configure_logging("error")
    torch.set_num_threads(1)
    store = Library(Path(library), actor="study")
    link.send({"type": "warm"})
    try:
        while not link.stop_requested:
            for request in link.requests():
                if request == "cell":
                    cell = Cell.from_json(request.fields["cell"])
                    link.send({"type": "ended", "error": _told(perform, cell, store)})
            link.wait_for_stop(_POLL_S)
    finally:
        store.close()
    return 0


def _told(perform: Callable[[Cell, Library], None], cell: Cell, store: Library) -> str:
    try:
        perform(cell, store)
    except Exception as error:  # noqa: BLE001 - a task's own code: any failure is told, and named
        return f"{type(error).__name__}: {error}"
    return ""
