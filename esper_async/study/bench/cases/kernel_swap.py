"""Does a kernel that swaps from eager to compiled in the middle of a run leave a trace or a stall?

A seed is grown into a small convolutional net on the true path, and swapped at a boundary while it
is on trial. A second life with the same seeds stays eager. What is compared: the weights and the
optimizer state before and after the swap, to the bit; the losses of the steps that follow; and how
long the slowest of these takes in CPU time of its thread, against a usual one.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esper_async.kasmina.compiling import kernel_forward, kernel_swap
from esper_async.kasmina.compiling.cxx import NO_COMPILER, cxx_compiler
from esper_async.kasmina.compiling.kernel_compiler import compile_kernel
from esper_async.kasmina.compiling.kernel_loader import Wanted
from esper_async.kasmina.compiling.kernel_program import KernelProgram
from esper_async.kasmina.compiling.kernel_record import Compilation, Strategy
from esper_async.kasmina.compiling.kernel_swap import KernelSwaps, Swap
from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import Kernel
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Candidate, Seed
from esper_async.kasmina.stage import Stage
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    shown,
)
from esper_async.study.bench.planting import PlantOnce
from esper_async.study.bench.slowing import burning_cpu
from esper_async.study.bench.timed_hosts import CONV, RATE
from esper_async.tamiyo.command import Germinate
from esper_async.tolaria.grower import Grower

BLUEPRINT = "BP009"
SWAPPED, CARRIED, LOSSES, STALL, BOUNDARY = (
    "kernels swapped",
    "tensors of weights and optimizer state that the swap changed",
    "losses after the swap, against those of the eager run",
    "slowest step after the swap, against a usual one",
    "the swap at its boundary",
)
_STEPS = {Effort.SHORT: 30, Effort.FULL: 200}
_COMPARED = 30
"""Steps after the swap whose losses must agree. Training carries rounding on and on: in the end any
two runs that were not bitwise the same go their own ways.
"""
_ROUNDING = 1e-7
_PATIENCE_S = 60.0
_EPOCH = 8


@dataclass(slots=True)
class Life:
    """What was seen of one run: `losses` and `steps_s` of the steps after the swap, or its time."""

    losses: list[float]
    steps_s: list[float]
    swap: Swap | None
    changed: int
    boundary_s: float


class OneKernel:
    """Supplies the kernel in a folder, kept whatever it costs: what is asked here is no speed."""

    def __init__(self, folder: Path, record: Compilation) -> None:
        self._folder = folder
        self._record = replace(record, kept=True)

    def record(self, wanted: Wanted) -> Compilation | None:
        """Return its record."""
        return self._record

    def unpack(self, record: Compilation, folder: Path) -> None:
        """Copy its files into a folder."""
        shutil.copytree(self._folder, folder, dirs_exist_ok=True)

    def ask(self, wanted: Wanted) -> bool:
        """There is nobody to ask: it is here."""
        return False


def measure(effort: Effort) -> list[Row]:
    """Live once eagerly and once with a swap, and compare."""
    if cxx_compiler() is None:
        return [shown("not measured", 0.0, "", note=NO_COMPILER)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run = _Run()
        folder, record = _compiled(run.interface)
        with TemporaryDirectory(prefix="esper-bench-") as scratch:
            eager = run.live(None, Path(scratch), _STEPS[effort])
            shop = OneKernel(Path(folder.name), record)
            swapped = _Run().live(shop, Path(scratch), _STEPS[effort])
            rows = _rows(eager, swapped)
            if effort is Effort.FULL:
                rounded = _Run().live(None, Path(scratch), _STEPS[effort], disturbed=_ROUNDING)
                rows.append(_in_the_end(eager, swapped, rounded))
            return rows
    finally:
        torch.set_num_threads(threads)


@cache
def _compiled(interface: SiteInterface) -> tuple[TemporaryDirectory[str], Compilation]:
    """Compile the kernel once for the benchmark and its mutants; it lasts as long as the process.

    What is asked here is no speed, so that it need not be compiled again under a mutant.
    """
    folder = TemporaryDirectory(prefix="esper-bench-")
    try:
        record = compile_kernel(
            BLUEPRINT,
            interface,
            Path(folder.name),
            batch=CONV.batch_size,
            threads=1,
            strategy=Strategy.FAST,
        )
    except BaseException:
        folder.cleanup()
        raise
    return folder, record


class _Run:
    """A host with one seed, from its first step to some steps past the boundary of the swap."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self._model = CONV.model()
        generator = torch.Generator().manual_seed(1)
        self._batches = [CONV.batch(CONV.batch_size, generator) for _ in range(_EPOCH)]
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=RATE)
        self._grower = Grower(
            self._model,
            self._optimizer,
            state_dir=None,
            loss=CONV.loss,
            policy=PlantOnce(boundary=0),
            growth=GrowthOptions(
                shadow_every=1,
                dwell_steps=_EPOCH,
                warmup_steps=1,
                g2_margin=-1e9,
                parameter_budget=1000.0,
                ramp_boundaries=1,
                window_boundaries=1000,
            ),
            blueprints=[BLUEPRINT],
        )
        self._grower.prepare(self._batches[0])
        self._pair = self._grower.legal[0]

    @property
    def interface(self) -> SiteInterface:
        """Of the site where the seed is planted."""
        return self._pair.site.interface

    def live(
        self, shop: OneKernel | None, scratch: Path, steps: int, *, disturbed: float = 0.0
    ) -> Life:
        """Grow the seed until it is on trial; then swap it if there is a shop, and train on.

        `disturbed` is the share by which the seed's weights are made larger before.
        """
        seed = self._seed_on_trial()
        with torch.no_grad():
            for parameter in seed.graft.parameters():
                parameter.mul_(1.0 + disturbed)
        life = Life([], [], None, 0, 0.0)
        swaps = None
        if shop is not None:
            swaps = KernelSwaps(shop, scratch, batch=CONV.batch_size, threads=1)
            self._swap(swaps, seed, life)
        for number in range(steps):
            began = time.thread_time()
            loss = self._step(number)
            life.steps_s.append(time.thread_time() - began)
            life.losses.append(float(loss))
        if swaps is not None:
            swaps.close()
        return life

    def _seed_on_trial(self) -> Seed:
        candidate = Candidate(self._pair.site.name, BLUEPRINT, self._pair.blend)
        self._grower.carry_out(Germinate((candidate,)))
        assert self._grower.executor is not None
        (seed,) = self._grower.executor.seeds.values()
        while seed.stage not in (Stage.SHADOWING, Stage.PROBATIONARY):
            assert not seed.ended, f"the seed was culled: {seed.gates[-1]}"
            for number in range(_EPOCH):
                self._step(number)
            self._grower.boundary(self._batches[:2])
        return seed

    def _swap(self, swaps: KernelSwaps, seed: Seed, life: Life) -> None:
        """Pass boundaries until the loader has its answer; time the one that swaps."""
        until = time.monotonic() + _PATIENCE_S
        while life.swap is None and time.monotonic() < until:
            before = [tensor.clone() for tensor in _tensors(seed)]
            began = time.thread_time()
            found = swaps.boundary([seed])
            life.boundary_s = time.thread_time() - began
            if found:
                (life.swap,) = found
                pairs = zip(before, _tensors(seed), strict=True)
                life.changed = sum(not torch.equal(old, new) for old, new in pairs)
            else:
                time.sleep(0.01)

    def _step(self, number: int) -> Tensor:
        inputs, targets = batch = self._batches[number % _EPOCH]
        with self._grower.step(batch):
            self._optimizer.zero_grad(set_to_none=True)
            loss = CONV.loss(self._model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        return loss.detach()


def _tensors(seed: Seed) -> Iterator[Tensor]:
    """Yield what a swap must carry over: weights, buffers and the optimizer's state."""
    yield from seed.graft.state_dict().values()
    assert seed.optimizer is not None
    for group in seed.optimizer.param_groups:
        for parameter in group["params"]:
            state: dict[str, Any] = seed.optimizer.state[parameter]
            yield from (value for value in state.values() if isinstance(value, Tensor))


def _rows(eager: Life, swapped: Life) -> list[Row]:
    done = swapped.swap is not None and swapped.swap.compiled
    apart = _apart(swapped, eager)[:_COMPARED]
    slowest, usual = max(swapped.steps_s), float(np.median(swapped.steps_s))
    control = max(eager.steps_s) / float(np.median(eager.steps_s))
    doubt = f"the eager run's slowest step takes {control:.1f} usual ones" if control > 2.0 else ""
    return [
        judged(SWAPPED, float(done), "", Bar("at least", 1),
               note="" if swapped.swap is None else swapped.swap.reason),
        judged(CARRIED, float(swapped.changed), "", Bar("at most", 0)),
        judged(LOSSES, max(apart), "relative", Bar("at most", 1e-3),
               note=f"largest of {len(apart)} steps; of the first {apart[0]:.1e}"),
        judged(STALL, slowest / usual, "times", Bar("at most", 3.0),
               note=f"{1e3 * slowest:.1f} of {1e3 * usual:.1f} ms",
               doubt=doubt if slowest / usual < 10.0 else ""),
        judged(BOUNDARY, 1e3 * swapped.boundary_s, "ms", Bar("at most", 1.5)),
    ]  # fmt: skip


def _in_the_end(eager: Life, swapped: Life, rounded: Life) -> Row:
    """Show how far the runs are apart over all steps, and how far rounding alone takes one."""
    apart, by_rounding = (max(_apart(life, eager)) for life in (swapped, rounded))
    return shown(
        f"the same over {len(eager.losses)} steps",
        apart,
        "relative",
        note=f"{by_rounding:.4f} where the eager kernel's weights were {_ROUNDING:g} larger",
    )


def _apart(one: Life, other: Life) -> list[float]:
    return [abs(a - b) / abs(b) for a, b in zip(one.losses, other.losses, strict=True)]


# -- mutants ---------------------------------------------------------------------------------------

_whole_backward = KernelProgram.backward
_whole_run = kernel_forward.run_compiled


class _SlowAtFirst(kernel_forward.CompiledKernelForward):
    """Burns half a second of CPU time in its first call."""

    waits: list[float]

    def __call__(self, h: Tensor) -> Tensor:
        enough = time.thread_time() + (self.waits.pop() if self.waits else 0.0)
        while time.thread_time() < enough:
            pass
        return super().__call__(h)


def _slow_at_first(module: nn.Module, program: KernelProgram) -> str | None:
    refused = _whole_run(module, program)
    forward: Any = module.__dict__["forward"]
    forward.__class__ = _SlowAtFirst
    forward.waits = [0.5]
    return refused


def _backward_astray(program: KernelProgram, *given: Any) -> list[Tensor | None]:
    found = _whole_backward(program, *given)
    return [None if gradient is None else -gradient for gradient in found]


def _from_birth(module: nn.Module, program: KernelProgram) -> str | None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.9)
    return _whole_run(module, program)


def _refused(_module: Kernel, _program: KernelProgram) -> str:
    return "a mutant refuses"


BENCHMARK = Benchmark(
    name="kernel-swap",
    question="does swapping a kernel to its compiled form in mid-run leave a trace or a stall?",
    measure=measure,
    mutants=(
        Mutant(
            "compiled on the step",
            "the first step after the swap takes half a second more",
            lambda: replaced(f"{kernel_swap.__name__}.run_compiled", _slow_at_first),
            fails=(STALL,),
        ),
        Mutant(
            "loaded at the boundary",
            "the boundary does 20 ms of work for the swap",
            lambda: burning_cpu(f"{kernel_swap.__name__}.KernelSwaps._swap", 0.02),
            fails=(BOUNDARY,),
        ),
        Mutant(
            "other gradients",
            "the compiled backward pass returns them with the wrong sign",
            lambda: replaced(
                f"{KernelProgram.__module__}.KernelProgram.backward", _backward_astray
            ),
            fails=(LOSSES,),
        ),
        Mutant(
            "weights lost",
            "the compiled kernel does not begin from the eager one's weights",
            lambda: replaced(f"{kernel_swap.__name__}.run_compiled", _from_birth),
            fails=(CARRIED, LOSSES),
        ),
        Mutant(
            "never swapped",
            "what was compiled is not taken",
            lambda: replaced(f"{kernel_swap.__name__}.run_compiled", _refused),
            fails=(SWAPPED,),
        ),
    ),
)
