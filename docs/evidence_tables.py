"""Copy the figures of `docs/evidence/*.json` into the tables of `docs/evidence.md`.

    bin/esper-supervisor bench growth --json > docs/evidence/growth.json
    python docs/evidence_tables.py

A table stands between `<!-- growth -->` and `<!-- /growth -->`; nobody types a figure. What a study
wrote to `arms.csv` lies in `evidence/studies/NAME/` and stands after `<!-- NAME/arms -->`.
"""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_HEADINGS = ("figure", "value", "baseline", "ratio", "95 %", "bar", "verdict", "remark")
_TABLE = re.compile(r"<!-- (?P<name>[a-z0-9/-]+) -->\n.*?<!-- /(?P=name) -->", re.DOTALL)
_OF_ARMS = ("task", "arm", "score", "low", "high", "runs", "parameters", "total_macs")
_OF_STUDIES = {
    "arms": (*_OF_ARMS, "shadow_share"),
    "comparisons": (
        "task",
        "treated",
        "control",
        "difference",
        "low",
        "high",
        "chance",
        "rule",
        "more_than",
        "holds",
    ),
}


def filled(page: str, folder: Path) -> str:
    """Return the page with every table made anew from its benchmark's JSON in `folder`."""

    def table_of(found: re.Match[str]) -> str:
        name = found["name"]
        if "/" in name:
            return f"<!-- {name} -->\n{_study_table(folder / 'studies', name)}\n<!-- /{name} -->"
        document = json.loads((folder / f"{name}.json").read_text())
        (benchmark,) = (one for one in document["benchmarks"] if one["name"] == name)
        commit = document.get("commit")
        at = f"\n\nMeasured at {commit}." if commit else ""
        return f"<!-- {name} -->\n{_table(benchmark)}{at}\n<!-- /{name} -->"

    return _TABLE.sub(table_of, page)


def tables_in(page: str) -> list[str]:
    """Return the names of the benchmarks and `study/file` whose tables stand on the page."""
    return [found["name"] for found in _TABLE.finditer(page)]


def _table(benchmark: dict[str, Any]) -> str:
    cells = [_cells(row) for row in benchmark["rows"]]
    used = [column for column, _ in enumerate(_HEADINGS) if any(row[column] for row in cells)]
    return _lines([_HEADINGS[column] for column in used], [[row[n] for n in used] for row in cells])


def _study_table(folder: Path, name: str) -> str:
    with (folder / f"{name}.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    # an earlier version wrote `more_than` where there is a rule now
    columns = [each for each in _OF_STUDIES[name.rpartition("/")[2]] if each in found[0]]
    rows = [[_rounded(row[column]) for column in columns] for row in found]
    return _lines([column.replace("_", " ") for column in columns], rows)


def _rounded(text: str) -> str:
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text


def _lines(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
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
