"""Which benchmarks there are, without importing any of them."""

import difflib
from importlib import import_module

from esper_async.study.bench.benchmark import Benchmark

CASES = {
    "api-fuzz": "api_fuzz",
    "api-guard": "api_guard",
    "bad-input": "bad_input",
    "bit-flips": "bit_flips",
    "blending": "blending",
    "blueprints": "blueprints",
    "boundary-cost": "boundary_cost",
    "breaker": "breaker",
    "bus": "bus",
    "bus-away": "bus_away",
    "bus-chaos": "bus_chaos",
    "bus-dead-groups": "bus_dead_groups",
    "bus-fuzz": "bus_fuzz",
    "bus-poison": "bus_poison",
    "cells": "cells",
    "certificates": "certificates",
    "chaos": "chaos",
    "checkpoint-cost": "checkpoint_cost",
    "compiled-kernels": "compiled_kernels",
    "compiling-beside": "compiling_beside",
    "contracts": "contracts",
    "controller-faults": "controller_faults",
    "crash": "crash",
    "decision-cost": "decision_cost",
    "default-run": "default_run",
    "event-search": "event_search",
    "disruption": "disruption",
    "everything-on": "everything_on",
    "experience": "experience",
    "first-step": "first_step",
    "forge": "forge",
    "freeze": "freeze",
    "gate": "gate",
    "growing-cost": "growing_cost",
    "growth": "growth",
    "halving": "halving",
    "idle": "idle",
    "imitation": "imitation",
    "intervals": "intervals",
    "isolation": "isolation",
    "kernel-swap": "kernel_swap",
    "learning-step": "learning_step",
    "library": "library",
    "loader": "loader",
    "nissa-ingest": "nissa_ingest",
    "no-room": "no_room",
    "null-pairs": "null_pairs",
    "null-treatment": "null_treatment",
    "own-model": "own_model",
    "page": "page",
    "page-lag": "page_lag",
    "policy-heads": "policy_heads",
    "policy-masks": "policy_masks",
    "policy-updates": "policy_updates",
    "redis-kill": "redis_kill",
    "refusal": "refusal",
    "report-kills": "report_kills",
    "risk-drills": "risk_drills",
    "rollback": "rollback",
    "shadow-learning": "shadow_learning",
    "start-up": "start_up",
    "static-overhead": "static_overhead",
    "stream-crowd": "stream_crowd",
    "supervision": "supervision",
    "tournament": "tournament",
    "usefulness": "usefulness",
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
