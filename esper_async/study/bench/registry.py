"""Which benchmarks there are, without importing any of them."""

import difflib
from importlib import import_module

from esper_async.study.bench.benchmark import Benchmark

CASES = {
    "bad-input": "bad_input",
    "blending": "blending",
    "boundary-cost": "boundary_cost",
    "bus": "bus",
    "bus-away": "bus_away",
    "bus-chaos": "bus_chaos",
    "bus-dead-groups": "bus_dead_groups",
    "bus-fuzz": "bus_fuzz",
    "bus-poison": "bus_poison",
    "checkpoint-cost": "checkpoint_cost",
    "contracts": "contracts",
    "crash": "crash",
    "default-run": "default_run",
    "everything-on": "everything_on",
    "first-step": "first_step",
    "freeze": "freeze",
    "growing-cost": "growing_cost",
    "growth": "growth",
    "intervals": "intervals",
    "isolation": "isolation",
    "loader": "loader",
    "no-room": "no_room",
    "null-pairs": "null_pairs",
    "own-model": "own_model",
    "redis-kill": "redis_kill",
    "refusal": "refusal",
    "rollback": "rollback",
    "shadow-learning": "shadow_learning",
    "start-up": "start_up",
    "static-overhead": "static_overhead",
    "tournament": "tournament",
}


class UnknownBenchmarkError(ValueError):
    """No benchmark has that name."""


def load_benchmark(name: str) -> Benchmark:
    """Import a benchmark.

    Raises:
        UnknownBenchmarkError: there is none of that name.
    """
    if name not in CASES:
        near = difflib.get_close_matches(name, CASES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(CASES)}"
        raise UnknownBenchmarkError(f"there is no benchmark {name!r}; {hint}")
    module = import_module(f"esper_async.study.bench.cases.{CASES[name]}")
    benchmark: Benchmark = module.BENCHMARK
    return benchmark
