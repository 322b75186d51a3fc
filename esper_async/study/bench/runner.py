"""Running benchmarks and their mutants."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from esper_async.study.bench.benchmark import Benchmark, Effort, Row, Verdict
from esper_async.study.bench.registry import CASES, load_benchmark

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class MutantResult:
    """Whether a broken variant was caught, and the rows that show it."""

    name: str
    description: str
    caught: bool
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "name": self.name,
            "description": self.description,
            "caught": self.caught,
            "rows": [row.to_json() for row in self.rows],
        }


@dataclass(slots=True)
class BenchmarkResult:
    """A benchmark's rows and what became of its mutants."""

    name: str
    question: str
    rows: list[Row]
    wall_s: float
    mutants: list[MutantResult] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """No row misses its bar, and every mutant that was run was caught."""
        missed = any(row.verdict is Verdict.MISS for row in self.rows)
        return not missed and all(mutant.caught for mutant in self.mutants)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "name": self.name,
            "question": self.question,
            "ok": self.ok,
            "wall_s": round(self.wall_s, 3),
            "rows": [row.to_json() for row in self.rows],
            "mutants": [mutant.to_json() for mutant in self.mutants],
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
    started = time.perf_counter()
    rows = benchmark.measure(effort)
    result = BenchmarkResult(
        benchmark.name, benchmark.question, rows, time.perf_counter() - started
    )
    for mutant in benchmark.mutants if mutants else ():
        tell(f"{benchmark.name}, mutant: {mutant.name}")
        with mutant.breaks():
            broken = benchmark.measure(Effort.SHORT)
        caught = any(row.verdict is Verdict.MISS for row in broken)
        result.mutants.append(MutantResult(mutant.name, mutant.description, caught, tuple(broken)))
    return result
