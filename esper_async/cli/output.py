"""How results are written: text for people, or one JSON document."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO


@dataclass(frozen=True, slots=True)
class Output:
    """Where results go. `as_json` turns every result into one JSON document."""

    as_json: bool = False
    stream: TextIO | None = None

    @property
    def color(self) -> bool:
        """Whether colour and a moving display are welcome: a terminal, and no NO_COLOR."""
        stream = self.stream or sys.stdout
        return stream.isatty() and not os.environ.get("NO_COLOR") and not self.as_json

    def line(self, text: str = "") -> None:
        """Write a line for people; nothing when the result is JSON."""
        if not self.as_json:
            print(text, file=self.stream or sys.stdout, flush=True)

    def result(self, document: Any, text: Iterable[str]) -> None:
        """Write a result: the document as JSON, or its lines of text."""
        if self.as_json:
            print(json.dumps(document, indent=1), file=self.stream or sys.stdout)
            return
        for line in text:
            self.line(line)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table; a column of numbers is set flush right, None shows as a dash."""
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    if not cells:
        return []
    columns = list(zip(headers, *cells, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    right = [all(_numeric(cell) for cell in column[1:]) for column in columns]

    def line(row: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return [line(list(headers)), *(line(row) for row in cells)]


def number(value: object, digits: int = 4) -> str | None:
    """Return a number with so many digits after the point; None and non-numbers as None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return f"{value:.{digits}f}" if isinstance(value, float) else f"{value:,}"


def _numeric(cell: str) -> bool:
    return cell == "-" or cell[:1].isdigit() or (cell[:1] in "+-" and cell[1:2].isdigit())
