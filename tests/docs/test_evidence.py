"""The page of evidence shows what was measured: its tables are the JSON beside it."""

import json
from pathlib import Path

import pytest

from docs.evidence_tables import filled, tables_in
from esper_async.study.bench.registry import CASES
from tests.cli.conftest import ROOT

PAGE = ROOT / "docs" / "evidence.md"
FIGURES = ROOT / "docs" / "evidence"


def test_every_table_is_what_its_benchmark_printed() -> None:
    assert PAGE.read_text() == filled(PAGE.read_text(), FIGURES)


def test_what_was_measured_is_shown_and_can_be_measured_again() -> None:
    shown = tables_in(PAGE.read_text())
    benchmarks = {name for name in shown if "/" not in name}
    assert benchmarks == {path.stem for path in FIGURES.glob("*.json")}
    assert benchmarks <= set(CASES)
    studies = {f"{path.parent.name}/{path.stem}" for path in FIGURES.glob("studies/*/*.csv")}
    assert set(shown) - benchmarks == studies
    assert {name.partition("/")[0] for name in studies} <= {
        path.stem for path in (ROOT / "config" / "studies").glob("*.toml")
    }


def test_a_figure_that_was_typed_would_be_noticed(tmp_path: Path) -> None:
    row = {"figure": "wins", "value": 2.5, "unit": "points", "baseline": None, "ratio": None,
           "interval": [2.0, 3.0], "bar": "≥ 3", "verdict": "miss", "note": ""}  # fmt: skip
    document = {"commit": "0abc123", "benchmarks": [{"name": "growth", "rows": [row]}]}
    (tmp_path / "growth.json").write_text(json.dumps(document))
    page = filled("<!-- growth -->\n<!-- /growth -->\n", tmp_path)
    assert "| wins | 2.5 points | 2 … 3 | ≥ 3 | miss |\n\nMeasured at 0abc123.\n" in page
    assert filled(page.replace("2.5", "3.5").replace("miss", "pass"), tmp_path) == page


def test_a_table_without_its_figures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        filled("<!-- growth -->\n<!-- /growth -->\n", tmp_path)
