"""A run's story as one HTML file, read from its journal: no supervisor need run."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from esper_async.cli.failure import EXIT_WRONG_REQUEST, CommandError
from esper_async.cli.output import Output
from esper_async.karn.catalogue import Catalogue
from esper_async.nissa.report import report_html
from esper_async.nissa.run_text import run_file_text
from esper_async.supervisor.assembly import versions
from esper_async.tamiyo.hub import Hub


def write_report(state_dir: Path, run_id: str, target: Path | None, output: Output) -> None:
    """Write the report of a run; raises CommandError."""
    folder = state_dir / "runs" / run_id
    if "/" in run_id or run_id.startswith(".") or not folder.is_dir():
        known = sorted(each.name for each in (state_dir / "runs").glob("*") if each.is_dir())
        there = f"there are {', '.join(known[-8:])}" if known else f"{state_dir} holds no runs"
        raise CommandError(f"there is no run {run_id!r}; {there}", EXIT_WRONG_REQUEST)
    view = asyncio.run(_view(folder.parent, run_id))
    if view["seq"] == 0:
        raise CommandError(f"run {run_id} has not begun; there is nothing to report yet")
    text = report_html(
        view,
        run_file=_run_file(folder, view["start"]),
        blueprints=[asdict(record) for record in Catalogue().records],
        versions=versions(),
        made_at=time.time(),
    )
    path = target or Path(f"{run_id}.html")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from None
    size_kb = len(text.encode()) // 1024
    output.result(
        {"run": run_id, "file": str(path)},
        [f"{path} ({size_kb} KiB): open it in any browser, or send it to a colleague"],
    )


async def _view(runs_dir: Path, run_id: str) -> dict[str, Any]:
    hub = Hub(runs_dir)
    await hub.catch_up(run_id)
    return (await hub.picture(run_id)).view()


def _run_file(folder: Path, started: Mapping[str, Any]) -> str:
    try:
        return run_file_text(json.loads((folder / "run.json").read_text())["config"], started)
    except (OSError, ValueError, KeyError):
        return ""
