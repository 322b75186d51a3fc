"""A collection's worker process: runs cells, and keeps what each decided and was told."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper_async.runtime.child_main import ChildLink
from esper_async.study.cell import Cell
from esper_async.study.collect.haul import CollectedLedger, Told
from esper_async.study.running import run_cell
from esper_async.study.worker import serve
from esper_async.tolaria.messages import decision_of, field_report_of
from esper_async.urza import Library


def work(link: ChildLink, *, cells: str, code: str, library: str) -> int:
    """Run what the parent asks for until it says stop; the target of its child."""
    ledger = CollectedLedger(Path(cells), code)
    return serve(link, lambda cell, store: collect_cell(cell, ledger, store), library=library)


def collect_cell(cell: Cell, ledger: CollectedLedger, store: Library | None) -> None:
    """Run a cell and keep its experience, then its result."""
    heard: list[Told] = []

    def listen(record: Mapping[str, Any]) -> None:
        if record["kind"] == "decision":
            heard.append(decision_of(record))
        elif record["kind"] == "field_report":
            heard.append(field_report_of(record))

    result = run_cell(cell, store, run_id=ledger.run_id(cell), listener=listen)
    ledger.write_haul(cell, heard)
    ledger.write(cell, result)
