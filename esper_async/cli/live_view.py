"""The live view of `up` on a terminal: runs, their seeds, alerts, and the page's address."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from esper_async.cli.run_text import cost_of, doing, quantity_named
from esper_async.cli.verdict import MARKS, TITLES, Kind, verdict
from esper_async.karn.catalogue import Catalogue

Json = Mapping[str, Any]
_STYLES = {
    "running": "green",
    "completed": "bold green",
    "failed": "bold red",
    "paused": "yellow",
    "FOSSILIZED": "bold green",
    "PROBATIONARY": "green",
    "SHADOWING": "cyan",
    "BLENDING": "cyan",
    "TRAINING": "blue",
}
_GONE = frozenset({"DORMANT", "CULLED", "EMBARGOED", "RESETTING", "TERMINATED"})
_SEEDS_SHOWN = 12
_OF_THE_CURVES = "averaged_loss"
"""The network's loss on averaged weights: it means something beside the twin's alone."""
_GRAVE: dict[Kind, str] = {"good": "green", "warn": "yellow", "bad": "red"}
_RUNNING = "Ctrl-C stops with a checkpoint; the next `up` goes on"
_STOPPING = "stopping: Ctrl-C again cuts it short"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is to show at one moment."""

    url: str
    status: str
    services: Mapping[str, Json]
    runs: Sequence[Json]
    alerts: Sequence[Json] = ()
    hint: str = _RUNNING


def render(snapshot: Snapshot) -> RenderableType:
    """Return the whole view."""
    kind, reasons = verdict(snapshot.services, snapshot.alerts, snapshot.runs)
    parts: list[RenderableType] = [_heading(snapshot, kind)]
    parts += [Text(f"  {MARKS[grave]} {text}", _GRAVE[grave]) for grave, text in reasons]
    parts += [_run(run) for run in snapshot.runs]
    hint = _STOPPING if snapshot.status == "stopping" else snapshot.hint
    parts.append(Text(f"  {hint}", "dim"))
    return Group(*parts)


def _heading(snapshot: Snapshot, kind: Kind) -> Text:
    style = "green" if snapshot.status == "ready" else "yellow"
    return Text.assemble(
        ("esper ", "bold"),
        (snapshot.status, style),
        "   ",
        (f"{MARKS[kind]} {TITLES[kind]}", _GRAVE[kind]),
        "   ",
        (snapshot.url, "underline"),
    )


def _run(run: Json) -> RenderableType:
    epoch, epochs = run["epoch"] or 0, run["epochs"] or 1
    line = Table.grid(padding=(0, 2))
    metrics = "  ".join(
        f"{name.replace('validation', 'val').replace('training', 'train').replace('_', ' ')} "
        f"{value:.4f}"
        for name, value in run["metrics"].items()
        if isinstance(value, int | float) and name != _OF_THE_CURVES
    )
    line.add_row(
        Text(f"  {run['name']}", "bold"),
        Text(run["state"], _STYLES.get(run["state"], "")),
        ProgressBar(total=epochs, completed=epoch, width=24),
        Text(f"epoch {epoch}/{epochs}"),
    )
    parts: list[RenderableType] = [line]
    what = doing(run)
    if what:
        parts.append(Text(f"    {what}", "cyan"))
    if metrics:
        parts.append(Text(f"    {metrics}"))
    parts.append(Text(f"    {_terms(run)}", "dim"))
    if run.get("error"):
        parts.append(Text(f"    {run['error']}", "red"))
    if run["seeds"]:
        parts.append(_seeds(run["seeds"]))
    return Group(*parts)


def _terms(run: Json) -> str:
    """Return by which policy a run grows, and what that costs, as far as it was measured."""
    times, cost = run.get("boundary_ms") or {}, cost_of(run)
    terms = [f"policy {run['policy']}"]
    if times.get("p50") is not None:
        terms.append(f"boundary {times['p50']:.1f} ms, 99 % within {times['p99']:.1f} ms")
    if cost is not None:
        terms.append(cost)
    return "  ".join(terms)


@cache
def _blueprints() -> Mapping[str, str]:
    """Return the names of the catalogue's blueprints by id, as people read them."""
    return {record.id: record.name.replace("_", " ") for record in Catalogue().records}


def _seeds(seeds: Sequence[Json]) -> RenderableType:
    """Return the seeds that are there, by site; of those that are gone, only how many."""
    here = sorted((s for s in seeds if s["stage"] not in _GONE), key=lambda s: s["site"])
    rows = Table.grid(padding=(0, 2))
    for seed in here[:_SEEDS_SHOWN]:
        rows.add_row(
            Text(f"    {seed['site']}"),
            Text(_blueprints().get(seed["blueprint"], seed["blueprint"] or "")),
            Text(seed["stage"].lower(), _STYLES.get(seed["stage"], "")),
            Text("" if seed["alpha"] is None else f"alpha {seed['alpha']:.2f}"),
            Text(quantity_named(seed), "dim"),
        )
    further = len(here) - _SEEDS_SHOWN
    gone = len(seeds) - len(here)
    notes = [f"{further} more"] if further > 0 else []
    notes += [f"{gone} tried and removed"] if gone else []
    return Group(rows, Text("    " + ", ".join(notes), "dim")) if notes else rows
