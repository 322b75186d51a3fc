"""Every benchmark's short form meets its bars, and every bar has mutants that fail it.

Those that are not timed are run first, beside each other; then the timed ones, alone. A machine
that is busy for a minute can spoil what is timed, and can have a mutant of any benchmark strike
where it does no harm. A timed benchmark that fails, and another that was late or of which a mutant
escaped, and any that could not be held, is therefore measured once more, after all the others and
alone; what fails twice, so far apart, fails. A bar that has nothing to do with time and is missed
fails at once.
"""

import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from esper_async.study.bench.benchmark import Row, Verdict
from esper_async.study.bench.registry import CASES, load_benchmark
from esper_async.study.bench.runner import BenchmarkResult, SideBySide, run_benchmarks

pytestmark = [pytest.mark.full, pytest.mark.timeout(2400)]

_FIRST, _AGAIN = "first", "again"
_ESCAPED, _LATE, _NOT_HELD = "escaped", "late", "not held"
_OF_TIME = ("s", "ms", "late")
"""Units of rows that a busy machine can spoil."""
_TIMED = [name for name in CASES if load_benchmark(name).timed]
_UNTIMED = [name for name in CASES if name not in _TIMED]
_complaints: dict[str, list[str]] = {}
"""What was wrong with a benchmark when it was measured first; nothing where it was well."""


Measure = Callable[[str], BenchmarkResult]


@pytest.fixture(scope="module")
def measure(request: pytest.FixtureRequest) -> Iterator[Measure]:
    """Yield what measures a benchmark: the first that is not timed starts all those chosen."""
    chosen = {item.name for item in request.session.items}
    untimed = [name for name in _UNTIMED if any(f"[{_FIRST}-{name}]" in each for each in chosen)]
    with ExitStack() as stack:
        together: list[SideBySide] = []

        def measured(name: str) -> BenchmarkResult:
            if name in _TIMED or name in _complaints:
                stack.close()
                (result,) = run_benchmarks([name], mutants=True, short=True)
                return result
            if not together:
                together.append(stack.enter_context(SideBySide(untimed)))
            return together[0].result(name)

        yield measured


def _complaints_about(result: BenchmarkResult) -> list[str]:
    return [
        *(f"{_missed(row)}: {row}" for row in result.rows if row.verdict is Verdict.MISS),
        *(f"{_ESCAPED}: {each.name}: {each.escapes}" for each in result.mutants if not each.caught),
        *(f"no mutant fails it: {figure}" for figure in result.unguarded),
    ]


def _complaints_of(name: str, measure: Measure, turn: str) -> list[str]:
    try:
        return _complaints_about(measure(name))
    except Exception:
        if turn == _AGAIN:
            raise
        return [f"{_NOT_HELD}: {traceback.format_exc()[-2_000:]}"]


def _missed(row: Row) -> str:
    return _LATE if row.unit in _OF_TIME else "missed"


def _comes_again(name: str, complaints: list[str]) -> bool:
    return name in _TIMED or all(
        each.startswith((_ESCAPED, _LATE, _NOT_HELD)) for each in complaints
    )


@pytest.mark.filterwarnings("default:.* is measured once more")
@pytest.mark.parametrize(
    ("turn", "name"),
    [(turn, name) for turn in (_FIRST, _AGAIN) for name in _UNTIMED + _TIMED],
)
def test_the_short_form_meets_its_bars_and_every_bar_catches_its_mutants(
    turn: str, name: str, measure: Measure, request: pytest.FixtureRequest
) -> None:
    if turn == _AGAIN and _complaints.get(name) == []:
        return
    complaints = _complaints_of(name, measure, turn)
    _complaints.setdefault(name, complaints)
    chosen = {item.name for item in request.session.items}
    is_chosen_again = request.node.name.replace(f"[{_FIRST}-", f"[{_AGAIN}-") in chosen
    if complaints and turn == _FIRST and is_chosen_again and _comes_again(name, complaints):
        warnings.warn(f"{name} is measured once more: {complaints}", stacklevel=1)
        return
    assert complaints == []


@pytest.mark.parametrize("name", CASES)
def test_every_mutant_names_the_rows_that_it_must_fail(name: str) -> None:
    mutants = load_benchmark(name).mutants
    assert mutants
    assert [mutant.name for mutant in mutants if not mutant.fails] == []
