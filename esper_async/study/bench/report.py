"""Benchmark results for people (a table of ratios) and for programs (JSON)."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from esper_async.study.bench.benchmark import Row, Verdict
from esper_async.study.bench.runner import BenchmarkResult

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COLOURS = {Verdict.PASS: "green", Verdict.MISS: "red", Verdict.INCONCLUSIVE: "yellow"}
_HEADINGS = ("figure", "value", "baseline", "ratio", "95 %", "bar", "verdict")
_FILE_WIDTH = 120


def to_json(results: Sequence[BenchmarkResult]) -> str:
    """Return one JSON document; `commit` is that of the clone that was measured, if it is one."""
    document = {
        "commit": measured_commit(),
        "ok": all(result.ok for result in results),
        "benchmarks": [result.to_json() for result in results],
    }
    return json.dumps(document, indent=2, allow_nan=True)


def measured_commit() -> str | None:
    """Return the commit of the clone that this code lies in, with "+" if files of it changed."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--dirty=+"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip()


def print_tables(results: Sequence[BenchmarkResult], console: "Console | None" = None) -> None:
    """Print a table for each benchmark, its mutants below it."""
    if console is None:
        from rich.console import Console

        console = Console()
        if not console.is_terminal:
            console.width = _FILE_WIDTH
    for result in results:
        console.print(_table(result, console.width))
        for row in result.rows:
            if row.note:
                console.print(f"  {row.figure}: {row.note}", style="dim", highlight=False)
        for mutant in result.mutants:
            caught = "[green]caught[/]" if mutant.caught else "[red]NOT CAUGHT[/]"
            console.print(f"  mutant {mutant.name}: {caught} ({mutant.description})")
            for escape in mutant.escapes:
                console.print(f"    {escape}")
        for figure in result.unguarded:
            console.print(f"  [red]no mutant is there to fail[/] {figure}")
        console.print(f"  reproduce: {result.command}\n", style="dim", highlight=False)


def _table(result: BenchmarkResult, width: int) -> "Table":
    from rich import box
    from rich.table import Table

    title = f"{result.name}: {result.question}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    rows = [dict(zip(_HEADINGS, _cells(row), strict=True)) for row in result.rows]
    headings = [heading for heading in _HEADINGS if any(row[heading] for row in rows)]
    if width < _FILE_WIDTH and "ratio" in headings:  # which tells it in less room
        headings = [heading for heading in headings if heading != "baseline"]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for row in rows:
        table.add_row(*(row[heading] for heading in headings))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.figure,
        f"{row.value:.4g} {row.unit}".strip(),
        "" if row.baseline is None else f"{row.baseline:.4g}",
        "" if row.ratio is None else f"{row.ratio:.3f}",
        "" if row.interval is None else f"{row.interval[0]:.4g} … {row.interval[1]:.4g}",
        "" if row.bar is None else str(row.bar),
        "" if row.bar is None else f"[{_COLOURS[row.verdict]}]{row.verdict.value}[/]",
    )
