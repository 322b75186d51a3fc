"""Copy the figures of `docs/evidence/*.json` into the tables of `docs/evidence.md`.

    bin/esper-supervisor bench growth --json > docs/evidence/growth.json
    python docs/evidence_tables.py

A table stands between `<!-- growth -->` and `<!-- /growth -->`; nobody types a figure.
"""

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_HEADINGS = ("figure", "value", "baseline", "ratio", "95 %", "bar", "verdict", "remark")
_TABLE = re.compile(r"<!-- (?P<name>[a-z-]+) -->\n.*?<!-- /(?P=name) -->", re.DOTALL)


def filled(page: str, folder: Path) -> str:
    """Return the page with every table made anew from its benchmark's JSON in `folder`."""

    def table_of(found: re.Match[str]) -> str:
        name = found["name"]
        document = json.loads((folder / f"{name}.json").read_text())
        (benchmark,) = (one for one in document["benchmarks"] if one["name"] == name)
        commit = document.get("commit")
        at = f"\n\nMeasured at {commit}." if commit else ""
        return f"<!-- {name} -->\n{_table(benchmark)}{at}\n<!-- /{name} -->"

    return _TABLE.sub(table_of, page)


def tables_in(page: str) -> list[str]:
    """Return the names of the benchmarks whose tables stand on the page."""
    return [found["name"] for found in _TABLE.finditer(page)]


def _table(benchmark: dict[str, Any]) -> str:
    cells = [_cells(row) for row in benchmark["rows"]]
    used = [column for column, _ in enumerate(_HEADINGS) if any(row[column] for row in cells)]
    lines = [[_HEADINGS[column] for column in used], ["---"] * len(used)]
    lines += [[row[column] for column in used] for row in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    unit = row["unit"]
    return (
        row["figure"],
        _with_unit(row["value"], unit),
        "" if row["baseline"] is None else _with_unit(row["baseline"], unit),
        "" if row["ratio"] is None else f"{row['ratio']:.3f}",
        "" if row["interval"] is None else "{:.4g} … {:.4g}".format(*row["interval"]),
        row["bar"] or "",
        "" if row["bar"] is None else row["verdict"],
        row["note"],
    )


def _with_unit(value: float, unit: str) -> str:
    return f"{value:.4g} {unit}".strip()


if __name__ == "__main__":
    target = HERE / "evidence.md"
    target.write_text(filled(target.read_text(), HERE / "evidence"))
