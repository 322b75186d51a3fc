"""Every benchmark's short form meets its bars, and every bar has mutants that fail it."""

import pytest

from esper_async.study.bench.benchmark import Verdict
from esper_async.study.bench.registry import CASES, load_benchmark
from esper_async.study.bench.runner import run_benchmarks

pytestmark = [pytest.mark.full, pytest.mark.timeout(2400)]


@pytest.mark.parametrize("name", CASES)
def test_the_short_form_meets_its_bars_and_every_bar_catches_its_mutants(name: str) -> None:
    (result,) = run_benchmarks([name], mutants=True, short=True)
    missed = [row for row in result.rows if row.verdict is Verdict.MISS]
    assert not missed
    escaped = {mutant.name: mutant.escapes for mutant in result.mutants if not mutant.caught}
    assert escaped == {}
    assert result.unguarded == []


@pytest.mark.parametrize("name", CASES)
def test_every_mutant_names_the_rows_that_it_must_fail(name: str) -> None:
    mutants = load_benchmark(name).mutants
    assert mutants
    assert [mutant.name for mutant in mutants if not mutant.fails] == []
