"""Kernels of a living run swap from eager to compiled, at a boundary and without a stall.

A thread of its own asks for compiled kernels, looks whether they are there, and loads them. The
boundary only lets a kernel whose program is loaded run by it from its next step on: weights,
buffers and optimizer state are the very same tensors before and after.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from esper_async.kasmina.compiling.kernel_forward import (
    is_compiled,
    run_as_written,
    run_compiled,
)
from esper_async.kasmina.compiling.kernel_loader import Answer, KernelLoader, Supplier, Wanted
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.stage import Stage

_IN_FORWARD = (Stage.BLENDING, Stage.SHADOWING, Stage.PROBATIONARY, Stage.FOSSILIZED)


@dataclass(frozen=True, slots=True)
class Swap:
    """A kernel that runs compiled from now on, or that stays eager: `reason` then says why.

    `fetch_ms` is what finding and loading it took, where it was loaded.
    """

    seed: str
    blueprint: str
    compiled: bool
    reason: str
    strategy: str
    ratio: float | None
    compile_ms: float | None
    fetch_ms: float | None


class KernelSwaps:
    """The compiled kernels of one run. All but the supplier is called from the run's thread.

    Args:
        supplier: where they come from.
        scratch: a folder in which they are unpacked to be loaded; nothing stays in it.
        batch: samples in a batch of the run.
        threads: the run's torch threads.
    """

    def __init__(self, supplier: Supplier, scratch: Path, *, batch: int, threads: int) -> None:
        self._batch = batch
        self._threads = threads
        self._swapped: dict[str, nn.Module] = {}
        self._told: set[str] = set()
        self._loader = KernelLoader(supplier, scratch)

    def boundary(self, seeds: Iterable[Seed]) -> list[Swap]:
        """Ask for what the seeds need, and swap what is ready; return what changed.

        Nothing is asked for a seed that trains in shadow: compiling takes half a minute of a core,
        and most of a tournament lose it. Of a seed that stays eager it is told once.
        """
        swaps = []
        for seed in seeds:
            if seed.body is None or seed.stage not in _IN_FORWARD:
                self._swapped.pop(seed.id, None)
                continue
            wanted = self._wanted(seed)
            answer = self._loader.answer(wanted)
            if answer is None:
                self._loader.look_for(wanted)
            elif not is_compiled(seed.kernel):
                swap = self._swap(seed, answer)
                swaps += [swap] if swap.compiled or seed.id not in self._told else []
                self._told.add(seed.id)
        return swaps

    def close(self) -> None:
        """Let every kernel run as it is written, and look for no more."""
        self._loader.close()
        for kernel in self._swapped.values():
            run_as_written(kernel)
        self._swapped = {}

    def _wanted(self, seed: Seed) -> Wanted:
        candidate = seed.candidate
        return Wanted(
            candidate.blueprint,
            seed.site.interface,
            tuple(sorted(candidate.parameters.items())),
            self._batch,
            self._threads,
        )

    def _swap(self, seed: Seed, answer: Answer) -> Swap:
        reason = answer.reason
        if answer.program is not None:
            reason = run_compiled(seed.kernel, answer.program) or ""
            if not reason:
                self._swapped[seed.id] = seed.kernel
        record = answer.record
        return Swap(
            seed=seed.id,
            blueprint=seed.candidate.blueprint,
            compiled=is_compiled(seed.kernel),
            reason=reason,
            strategy="" if record is None else record.strategy,
            ratio=None if record is None else record.ratio,
            compile_ms=None if record is None else record.compile_ms,
            fetch_ms=answer.fetch_ms,
        )
