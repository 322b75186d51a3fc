"""Timing a compiled kernel against the eager one, in the same process and in turns."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite
from statistics import median

import torch
from torch import Tensor, nn

from esper_async.kasmina.compiling.kernel_forward import run_compiled
from esper_async.kasmina.compiling.kernel_program import KernelProgram

ROUNDS = 25
# Of 25 rounds the 18th smallest lies above the median with a probability of 0.978 (binomial).
_UPPER = 18
_LAP_S = 0.002
_LARGE_BYTES = 31 * 2**20


@dataclass(frozen=True, slots=True)
class Pace:
    """Milliseconds of a batch, and the ratio of compiled to eager over the rounds."""

    eager_forward_ms: float
    eager_training_ms: float
    forward_ms: float
    training_ms: float
    ratio: float
    ratio_high: float

    def figures(self) -> dict[str, float]:
        """Return them by the names that the record has for them."""
        return {name: getattr(self, name) for name in self.__slots__}


def measure(
    kernel: nn.Module, activation: Tensor, as_written: Callable[[], None], program: KernelProgram
) -> Pace:
    """Time a kernel both ways, forward alone and forward with backward.

    On one thread CPU time is what counts, which other work on the machine does not change.
    """
    _settle_memory()
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    h = activation.detach().requires_grad_()

    def forward() -> None:
        kernel(h)

    def training() -> None:
        kernel.zero_grad(set_to_none=True)
        h.grad = None
        answer: Tensor = kernel(h)
        answer.sum().backward()  # type: ignore[no-untyped-call]

    def compiled() -> None:
        run_compiled(kernel, program)

    as_written()
    laps = _laps_for(training, clock)
    times: dict[str, list[float]] = {name: [] for name in ("ef", "et", "cf", "ct")}
    for _ in range(ROUNDS):
        for prepare, name in ((as_written, "e"), (compiled, "c")):
            prepare()
            times[f"{name}f"].append(_lap(forward, laps, clock))
            times[f"{name}t"].append(_lap(training, laps, clock))
    ratios = sorted(c / e for c, e in zip(times["ct"], times["et"], strict=True))
    ms = {name: 1e3 * median(taken) for name, taken in times.items()}
    return Pace(ms["ef"], ms["et"], ms["cf"], ms["ct"], median(ratios), ratios[_UPPER - 1])


def _settle_memory() -> None:
    """Have memory that is freed kept by this process, as in one that has trained for a while.

    A new process gives the memory of large tensors back, and pays for every page when it gets it
    anew: eager kernels, which make more of them, look up to twice as slow. glibc stops that at the
    first free of a larger block, up to 32 MB (mallopt(3), `M_MMAP_THRESHOLD`).
    """
    torch.ones(_LARGE_BYTES, dtype=torch.uint8)


def _laps_for(work: Callable[[], None], clock: Callable[[], float]) -> int:
    """Return how often to run `work` in a lap, after having run it warm."""
    for _ in range(3):
        work()
    once = max(_lap(work, 1, clock), 1e-6)
    return max(1, round(_LAP_S / once))


def _lap(work: Callable[[], None], laps: int, clock: Callable[[], float]) -> float:
    began = clock()
    for _ in range(laps):
        work()
    return (clock() - began) / laps


def difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two tensors, relative to the largest value of `other`.

    Infinite where one of them is not finite.
    """
    largest = max(float(other.float().abs().max()), 1e-6)
    found = float((one.float() - other.float()).abs().max()) / largest
    return found if isfinite(found) else inf
