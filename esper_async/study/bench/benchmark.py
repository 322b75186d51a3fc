"""What a benchmark is: figures against bars, and deliberately broken variants to catch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any, Literal
from unittest import mock


class Verdict(Enum):
    """Whether a figure meets its bar; `INCONCLUSIVE` when the measurement cannot say."""

    PASS = "pass"  # noqa: S105
    MISS = "miss"
    INCONCLUSIVE = "inconclusive"


class Effort(Enum):
    """How much a benchmark may spend: `SHORT` is what continuous integration runs."""

    SHORT = "short"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Bar:
    """A limit on a figure."""

    kind: Literal["at most", "at least"]
    limit: float

    def judge(self, value: float, interval: tuple[float, float] | None) -> Verdict:
        """Judge a value, or its whole interval: one that straddles the limit is inconclusive.

        A value that is not a number is a miss.
        """
        low, high = interval or (value, value)
        if self._holds(low) and self._holds(high) and self._holds(value):
            return Verdict.PASS
        straddles = self._holds(low) or self._holds(high)
        return Verdict.INCONCLUSIVE if straddles else Verdict.MISS

    def _holds(self, value: float) -> bool:
        return value <= self.limit if self.kind == "at most" else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.kind == 'at most' else '≥'} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a benchmark's table.

    `value` and `baseline` are in `unit`. The bar is on the ratio of the two where there is one,
    else on `value`; `interval` belongs to whatever the bar is on.
    """

    figure: str
    value: float
    unit: str
    verdict: Verdict
    baseline: float | None = None
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    bar: Bar | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        return {
            "figure": self.figure,
            "value": self.value,
            "unit": self.unit,
            "baseline": self.baseline,
            "ratio": self.ratio,
            "interval": None if self.interval is None else list(self.interval),
            "bar": None if self.bar is None else str(self.bar),
            "verdict": self.verdict.value,
            "note": self.note,
        }


def judged(
    figure: str,
    value: float,
    unit: str,
    bar: Bar,
    *,
    baseline: float | None = None,
    ratio: float | None = None,
    interval: tuple[float, float] | None = None,
    note: str = "",
    doubt: str = "",
) -> Row:
    """Build a row and judge it; with a `baseline` the bar is on the ratio to it.

    That is value / baseline, or `ratio` where it was measured pair by pair, as its interval was.
    `doubt`, when it says something, is why the measurement cannot be trusted: inconclusive.
    """
    if ratio is None and baseline is not None:
        ratio = value / baseline
    verdict = bar.judge(value if ratio is None else ratio, interval)
    if doubt:
        verdict = Verdict.INCONCLUSIVE
    return Row(figure, value, unit, verdict, baseline, ratio, interval, bar, doubt or note)


def all_true(figure: str, facts: Mapping[str, bool]) -> Row:
    """Build a row of facts by name, of which each must be true."""
    broken = [name for name, true in facts.items() if not true]
    note = f"not so: {', '.join(broken)}" if broken else ", ".join(facts)
    bar = Bar("at least", float(len(facts)))
    return judged(figure, float(len(facts) - len(broken)), f"of {len(facts)}", bar, note=note)


def shown(figure: str, value: float, unit: str, *, note: str = "") -> Row:
    """Build a row that is there to be read; it has no bar to miss."""
    return Row(figure, value, unit, Verdict.PASS, note=note)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A way to break the thing measured; while `breaks()` is entered it is broken.

    `fails` names the rows that must all be misses then, by figure or a shell pattern of figures.
    A mutant that names none is caught by any miss, and is no mutant of any bar.
    """

    name: str
    description: str
    breaks: Callable[[], AbstractContextManager[Any]]
    fails: tuple[str, ...] = ()

    def failing(self, *figures: str) -> "Mutant":
        """Return the same mutant for a benchmark in which it must fail these rows."""
        return replace(self, fails=figures)

    def must_fail(self, figure: str) -> bool:
        """Whether the row of that figure is one that this mutant must make a miss."""
        return any(fnmatchcase(figure, pattern) for pattern in self.fails)

    def escapes(self, rows: Sequence[Row]) -> list[str]:
        """Return why it is not caught by the rows that it broke; nothing if it is."""
        verdicts = {row.figure: row.verdict for row in rows if row.bar is not None}
        if not self.fails:
            return [] if Verdict.MISS in verdicts.values() else ["no row is a miss"]
        absent = [name for name in self.fails if not any(fnmatchcase(f, name) for f in verdicts)]
        return [
            *(f"{name}: there is no such row" for name in absent),
            *(
                f"{figure}: {verdict.value}"
                for figure, verdict in verdicts.items()
                if self.must_fail(figure) and verdict is not Verdict.MISS
            ),
        ]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A question, how it is measured, and the mutants that the measurement must catch.

    Every row that the short form judges must be named by a mutant. One that is not `timed` comes to
    the same figures on a busy machine: it and its mutants may run beside each other. Where
    `gross_mutants` miss their bars by far, as they do on a busy machine as well, only they may.
    """

    name: str
    question: str
    measure: Callable[[Effort], list[Row]]
    mutants: tuple[Mutant, ...]
    timed: bool = True
    gross_mutants: bool = False


_at_work: ContextVar[Mutant | None] = ContextVar("the mutant that is measured", default=None)


def wants(*figures: str) -> bool:
    """Whether rows of any of these figures are asked for.

    All are, but while a mutant is measured only those that it must fail: a benchmark may leave out
    the work behind the others.
    """
    mutant = _at_work.get()
    return mutant is None or any(mutant.must_fail(figure) for figure in figures)


@contextmanager
def at_work(mutant: Mutant) -> Iterator[None]:
    """Break what is measured as the mutant says, for a block."""
    token = _at_work.set(mutant)
    try:
        with mutant.breaks():
            yield
    finally:
        _at_work.reset(token)


@contextmanager
def replaced(target: str, replacement: object) -> Iterator[None]:
    """Put `replacement` where `target` ("package.module.name") is looked up, for a block."""
    with mock.patch(target, replacement):
        yield
