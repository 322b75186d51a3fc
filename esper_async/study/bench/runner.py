"""Running benchmarks and their mutants."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from esper_async.study.bench.all_runs import workers
from esper_async.study.bench.benchmark import Benchmark, Effort, Mutant, Row, Verdict, at_work
from esper_async.study.bench.registry import CASES, load_benchmark

Progress = Callable[[str], None]
_TRIES = 3
"""A mutant is run anew while a busy machine leaves one of its rows inconclusive."""


@dataclass(frozen=True, slots=True)
class MutantResult:
    """What became of a broken variant: its rows, and those which did not catch it as they must."""

    name: str
    description: str
    escapes: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def caught(self) -> bool:
        """Every row that it was to fail is a miss."""
        return not self.escapes

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "name": self.name,
            "description": self.description,
            "caught": self.caught,
            "escapes": list(self.escapes),
            "rows": [row.to_json() for row in self.rows],
        }


@dataclass(slots=True)
class BenchmarkResult:
    """A benchmark's rows, what became of its mutants, and the bars that have none.

    `unguarded` are figures that the short form judges and no mutant is there to fail; it is known
    where mutants were run, and whole where the short form was run with them.
    """

    name: str
    question: str
    effort: Effort
    rows: list[Row]
    wall_s: float
    mutants: list[MutantResult] = field(default_factory=list)
    unguarded: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """No row misses its bar; every mutant that was run was caught, and every bar has one."""
        missed = any(row.verdict is Verdict.MISS for row in self.rows)
        return not missed and not self.unguarded and all(mutant.caught for mutant in self.mutants)

    @property
    def command(self) -> str:
        """What to type to get the same again."""
        short = " --short" if self.effort is Effort.SHORT else ""
        mutants = " --mutants" if self.mutants else ""
        return f"bin/esper-supervisor bench {self.name}{short}{mutants}"

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "name": self.name,
            "question": self.question,
            "ok": self.ok,
            "command": self.command,
            "wall_s": round(self.wall_s, 3),
            "rows": [row.to_json() for row in self.rows],
            "mutants": [mutant.to_json() for mutant in self.mutants],
            "unguarded": self.unguarded,
        }


def run_benchmarks(
    names: Sequence[str] = (),
    *,
    mutants: bool = False,
    short: bool = False,
    progress: Progress | None = None,
) -> list[BenchmarkResult]:
    """Run the named benchmarks (all, without names), and on request their mutants.

    Mutants run in the short form: that is the one they must fail.

    Raises:
        UnknownBenchmarkError: a name is not known; nothing was run.
    """
    benchmarks = [load_benchmark(name) for name in names or CASES]
    effort = Effort.SHORT if short else Effort.FULL
    tell = progress or (lambda _: None)
    return [_run(benchmark, effort, mutants, tell) for benchmark in benchmarks]


def _run(benchmark: Benchmark, effort: Effort, mutants: bool, tell: Progress) -> BenchmarkResult:
    tell(f"{benchmark.name}: {benchmark.question}")
    if mutants and not benchmark.timed and effort is Effort.SHORT:
        with SideBySide([benchmark.name], tell) as together:
            return together.result(benchmark.name)
    started = time.perf_counter()
    rows = benchmark.measure(effort)
    broken = _run_mutants(benchmark, tell) if mutants else None
    return _result_of(benchmark, effort, rows, broken, time.perf_counter() - started)


def _result_of(
    benchmark: Benchmark,
    effort: Effort,
    rows: list[Row],
    broken: list[MutantResult] | None,
    wall_s: float,
) -> BenchmarkResult:
    """Put a result together; `broken` is None where mutants were not run."""
    result = BenchmarkResult(benchmark.name, benchmark.question, effort, rows, wall_s, broken or [])
    if broken is not None:
        short = [row for mutant in broken for row in mutant.rows]
        short += rows if effort is Effort.SHORT else []
        result.unguarded = _unguarded(benchmark, short)
    return result


class SideBySide:
    """Short forms of untimed benchmarks with their mutants, in processes of their own, one a core.

    A context manager: leaving it gives up what has not begun.
    """

    def __init__(self, names: Sequence[str], tell: Progress | None = None) -> None:
        self._pool = workers()
        self._begun_s = time.perf_counter()
        self._pending = {name: self._submit(name, tell or (lambda _: None)) for name in names}

    def __enter__(self) -> "SideBySide":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _submit(
        self, name: str, tell: Progress
    ) -> tuple[Future[list[Row]], list[Future[MutantResult]]]:
        whole = self._pool.submit(_measure_short, name)
        return whole, _submit_mutants(load_benchmark(name), self._pool, tell)

    def result(self, name: str) -> BenchmarkResult:
        """Wait for a benchmark's result; its wall-clock time is since all of them began."""
        whole, broken = self._pending[name]
        rows, mutants = whole.result(), [each.result() for each in broken]
        wall_s = time.perf_counter() - self._begun_s
        return _result_of(load_benchmark(name), Effort.SHORT, rows, mutants, wall_s)


def _run_mutants(benchmark: Benchmark, tell: Progress) -> list[MutantResult]:
    if not benchmark.gross_mutants:
        return [_run_mutant(benchmark, each, tell) for each in benchmark.mutants]
    with workers() as pool:
        return [each.result() for each in _submit_mutants(benchmark, pool, tell)]


def _submit_mutants(
    benchmark: Benchmark, pool: ProcessPoolExecutor, tell: Progress
) -> list[Future[MutantResult]]:
    for mutant in benchmark.mutants:
        tell(f"{benchmark.name}, mutant: {mutant.name}")
    numbers = range(len(benchmark.mutants))
    return [pool.submit(_run_mutant_of, benchmark.name, number) for number in numbers]


def _measure_short(name: str) -> list[Row]:
    return load_benchmark(name).measure(Effort.SHORT)


def _run_mutant_of(name: str, number: int) -> MutantResult:
    benchmark = load_benchmark(name)
    return _run_mutant(benchmark, benchmark.mutants[number], lambda _: None)


def _run_mutant(benchmark: Benchmark, mutant: Mutant, tell: Progress) -> MutantResult:
    rows: list[Row] = []
    for _ in range(_TRIES):
        tell(f"{benchmark.name}, mutant: {mutant.name}")
        with at_work(mutant):
            rows = benchmark.measure(Effort.SHORT)
        if not any(
            row.verdict is Verdict.INCONCLUSIVE and mutant.must_fail(row.figure) for row in rows
        ):
            break
    escapes = tuple(mutant.escapes(rows))
    return MutantResult(mutant.name, mutant.description, escapes, tuple(rows))


def _unguarded(benchmark: Benchmark, short: Sequence[Row]) -> list[str]:
    """Return the figures judged in the short form that no mutant names, each once."""
    figures = dict.fromkeys(row.figure for row in short if row.bar is not None)
    return [
        figure
        for figure in figures
        if not any(mutant.must_fail(figure) for mutant in benchmark.mutants)
    ]
