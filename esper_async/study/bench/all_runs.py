"""Many training runs of one torch thread each: over all cores, or in this process to be broken."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from esper_async.runtime.logging import configure_logging
from esper_async.study.bench.benchmark import Effort

P = TypeVar("P")
R = TypeVar("R")


def run_all(plans: Sequence[P], run: Callable[[P], R], effort: Effort) -> dict[P, R]:
    """Return what `run` makes of each plan, in the order of the plans.

    The full form starts them in that order over all cores: the longest should come first. The
    short form stays in this process, where a mutant can break it.
    """
    if effort is Effort.SHORT:
        return {plan: run(plan) for plan in plans}
    with workers() as pool:
        return dict(zip(plans, pool.map(run, plans, chunksize=1), strict=True))


def workers() -> ProcessPoolExecutor:
    """Return a pool with a fresh process a core, one torch thread each."""
    return ProcessPoolExecutor(
        os.cpu_count(), mp_context=get_context("spawn"), initializer=_begin_worker
    )


def _begin_worker() -> None:
    import torch  # not above: the command line's --help would wait for it

    configure_logging("warning")  # to standard error
    torch.set_num_threads(1)  # more of them than cores would wait for each other
