"""A study once more with other seeds: how many of its intervals overlap those of the first time."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TABLES = {"arms.csv": ("task", "arm"), "comparisons.csv": ("treated", "control", "task", "rule")}
_Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Of `count` intervals that both have, `overlapping` have a value in common."""

    overlapping: int
    count: int
    against: Path

    @property
    def share(self) -> float | None:
        """The part of them that overlaps; None where there are none."""
        return self.overlapping / self.count if self.count else None


def overlap(one: Path, first: Path) -> Overlap:
    """Compare the intervals of two folders of results, those of arms and of comparisons.

    Raises:
        OSError: a table cannot be read.
    """
    ours, theirs = dict(_intervals(one)), dict(_intervals(first))
    pairs = [(ours[key], theirs[key]) for key in ours.keys() & theirs.keys()]
    common = sum(max(a[0], b[0]) <= min(a[1], b[1]) for a, b in pairs)
    return Overlap(common, len(pairs), first)


def _intervals(folder: Path) -> Iterator[tuple[tuple[str, ...], _Interval]]:
    for name, key in _TABLES.items():
        for row in csv.DictReader((folder / name).read_text().splitlines()):
            if row["low"] and row["high"]:  # else it was not measured
                about = (name, *(row[part] for part in key))
                yield about, (float(row["low"]), float(row["high"]))
