"""`python -m esper_async.study.bench`: run benchmarks, print them, and say by the exit code."""

import argparse
import sys
from collections.abc import Sequence

import structlog

from esper_async.study.bench.registry import CASES, UnknownBenchmarkError
from esper_async.study.bench.report import print_tables, to_json
from esper_async.study.bench.runner import run_benchmarks


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, 1 if a bar is missed, has no mutant or lets one pass, 2 for a wrong request."""
    asked = _parser().parse_args(arguments)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # ours is stdout
    try:
        results = run_benchmarks(
            asked.names,
            mutants=asked.mutants,
            short=asked.short,
            progress=lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201
        )
    except UnknownBenchmarkError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    if asked.json:
        print(to_json(results))  # noqa: T201
    else:
        print_tables(results)
    return 0 if all(result.ok for result in results) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m esper_async.study.bench",
        description="Benchmarks, each against its baseline in the same run.",
        epilog=f"benchmarks: {', '.join(CASES)}",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones; all if none is given")
    parser.add_argument("--mutants", action="store_true", help="also run the broken variants")
    parser.add_argument("--short", action="store_true", help="the form that CI runs")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser
