"""Do compiled kernels pay on this CPU, and does another process find them ready?

Every blueprint of the production tier is compiled as the forge's worker does it. What it kept is
then measured again here, against the eager kernel in turns, from fresh weights; a table tells of
all. Then a second process starts: it must compile nothing, and have every kept kernel at work soon
after torch is imported. CPU time of one thread.
"""

import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esper_async.kasmina.compiling import kernel_compiler
from esper_async.kasmina.compiling.cxx import NO_COMPILER, cxx_compiler
from esper_async.kasmina.compiling.kernel_artifact import artifact_key, unpack
from esper_async.kasmina.compiling.kernel_compiler import compilation_key
from esper_async.kasmina.compiling.kernel_forward import run_compiled
from esper_async.kasmina.compiling.kernel_program import KernelProgram
from esper_async.kasmina.compiling.kernel_record import Compilation
from esper_async.kasmina.compiling.measuring import Pace
from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import blueprints_for, build_kernel
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    shown,
    wants,
)
from esper_async.study.bench.compiled import Wish, compile_all, load, opened
from esper_async.study.bench.interleave import interleaved
from esper_async.study.bench.slowing import burning_cpu
from esper_async.study.bench.up_process import run_in_every_python
from esper_async.tezzeret import compilation

BATCH = 64
SPATIAL = SiteInterface("spatial", (24, 14, 14))
SEQUENCE = SiteInterface("sequence", (64, 48))
FEATURE = SiteInterface("feature", (192,))
_WISHES = {
    Effort.SHORT: [Wish("BP017", SPATIAL, BATCH)],  # of gates, which fuse: it gains by far
    Effort.FULL: [
        Wish(blueprint.id, site, BATCH)
        for site in (SPATIAL, SEQUENCE, FEATURE)
        for blueprint in blueprints_for(site)
        if blueprint.tier == "production"
    ],
}
_ROUNDS = {Effort.SHORT: 15, Effort.FULL: 40}
SLOWEST, DIFFERENCE, KEPT, COMPILED_AGAIN, AT_WORK, READY = (
    "the kept kernel that gains least, against eager",
    "largest difference of a kept kernel from eager",
    "kernels kept",
    "second start: compilations",
    "second start: kept kernels that are not at work",
    "second start: ready, torch imported",
)
_LAP = 8
Comparison = tuple[float, tuple[float, float], float]


def measure(effort: Effort) -> list[Row]:
    """Compile each kernel, measure what was kept again, and start a second process."""
    if cxx_compiler() is None:
        return [shown("not measured", 0.0, "", note=NO_COMPILER)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
            return _rows(Path(folder), effort)
    finally:
        torch.set_num_threads(threads)


def _rows(folder: Path, effort: Effort) -> list[Row]:
    wishes = _WISHES[effort]
    records = compile_all(folder, wishes)
    kept = [(wish, record) for wish, record in zip(wishes, records, strict=True) if record.kept]
    _remember(folder, [record for _, record in kept])
    rows = [_told(record) for record in records]
    why = "" if kept else f"{records[0].blueprint_id}: {records[0].reason}"
    rows.append(judged(KEPT, float(len(kept)), f"of {len(records)}", Bar("at least", 1), note=why))
    if kept and wants(SLOWEST, DIFFERENCE):
        rows += _measured_again(folder, kept, effort)
    if wants(COMPILED_AGAIN):
        rows.append(_compiled_again(folder, wishes))
    if wants(AT_WORK, READY):
        rows += _second_process(folder)
    return rows


def _told(record: Compilation) -> Row:
    figure = f"{record.blueprint_id} at {record.interface}"
    if record.ratio is None:
        return shown(figure, 1.0, "of eager", note=f"stays eager: {record.reason}")
    note = f"{record.eager_training_ms:.3f} ms eager, {record.training_ms:.3f} ms compiled"
    note += ", kept" if record.kept else ", stays eager"
    note += f"; compiling took {(record.compile_ms or 0) / 1e3:.1f} s"
    return shown(figure, record.ratio, "of eager", note=note)


def _measured_again(
    folder: Path, kept: list[tuple[Wish, Compilation]], effort: Effort
) -> list[Row]:
    ratios: list[tuple[float, tuple[float, float], str, str]] = []
    differences: list[float] = []
    for wish, record in kept:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            program = load(folder, record, Path(scratch))
        eager = build_kernel(wish.blueprint, wish.interface, seed=5)
        _wake(eager)
        compiled = copy.deepcopy(eager)
        run_compiled(compiled, program)
        h = torch.randn(wish.batch, *wish.interface.shape)
        differences.append(_difference(eager, compiled, h))
        work = [_training(module, h) for module in (eager, compiled)]
        found = interleaved(*work, rounds=_ROUNDS[effort]).compare("cpu_s")
        interval = (found.ratio.low, found.ratio.high)
        ratios.append((found.ratio.value, interval, wish.blueprint, found.doubt(1.0)))
    value, interval, blueprint, doubt = max(ratios)
    return [
        judged(SLOWEST, value, "of eager", Bar("at most", 1.0), interval=interval,
               note=f"{blueprint}; forward with backward", doubt=doubt),
        judged(DIFFERENCE, max(differences), "of the largest", Bar("at most", 1e-4),
               note="answers and gradients"),
    ]  # fmt: skip


def _wake(kernel: nn.Module) -> None:
    """Move every weight from its birth: a change that is zero hides what differs before it."""
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)


def _training(kernel: nn.Module, activation: Tensor) -> Callable[[], None]:
    h = activation.clone().requires_grad_()

    def lap() -> None:
        for _ in range(_LAP):
            kernel.zero_grad(set_to_none=True)
            h.grad = None
            kernel(h).square().mean().backward()

    return lap


def _difference(eager: nn.Module, compiled: nn.Module, activation: Tensor) -> float:
    found = []
    for kernel in (eager, compiled):
        h = activation.clone().requires_grad_()
        answer = kernel(h)
        answer.square().sum().backward()
        found.append([answer.detach(), h.grad, *(p.grad for p in kernel.parameters())])
    pairs = [(one, other) for one, other in zip(*found, strict=True) if one is not None]
    return max(
        float((one - other).abs().max() / one.abs().max().clamp(min=1e-6)) for one, other in pairs
    )


def _compiled_again(folder: Path, wishes: list[Wish]) -> Row:
    again = 0
    whole: Callable[..., Compilation] = vars(compilation)["compile_kernel"]  # broken or not

    def counted(*given: Any, **named: Any) -> Compilation:
        nonlocal again
        again += 1
        return whole(*given, **named)

    with replaced(_COMPILE, counted):
        compile_all(folder, wishes)
    return judged(COMPILED_AGAIN, float(again), "", Bar("at most", 0))


def _second_process(folder: Path) -> list[Row]:
    command = [sys.executable, "-m", "esper_async.study.bench.ready_child", str(folder)]
    began = time.monotonic()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    return [
        judged(AT_WORK, float(found["kept"] - found["kernels"]), "", Bar("at most", 0),
               note=f"{found['kernels']} at work; the compiler was "
               f"{'' if found['compiler_loaded'] else 'not '}imported"),
        judged(READY, found["ready_s"], "s of CPU", Bar("at most", 2.0),
               note=f"{time.monotonic() - began:.1f} s in all, with Python and torch"),
    ]  # fmt: skip


# -- mutants ---------------------------------------------------------------------------------------

_remembered: dict[str, tuple[Compilation, bytes]] = {}
"""What this process has compiled and kept, for mutants of what comes after."""
_COMPILE = f"{compilation.__name__}.compile_kernel"


def _remember(folder: Path, kept: list[Compilation]) -> None:
    with opened(folder) as library:
        for record in kept:
            artifact = library.read(artifact_key(record.key), sealed=True)
            if artifact is not None:
                _remembered.setdefault(record.key, (record, artifact))


def _as_before(blueprint: str, interface: SiteInterface, folder: Path, **asked: Any) -> Compilation:
    """Stand in for compiling: a kernel that this process has compiled is not compiled anew."""
    names = ("parameters", "batch", "threads")
    key = compilation_key(blueprint, interface, **{name: asked[name] for name in names})
    if key not in _remembered:
        return replace(
            kernel_compiler.compile_kernel(blueprint, interface, folder, **asked), kept=True
        )
    record, artifact = _remembered[key]
    unpack(artifact, folder)
    return record


_whole_backward = KernelProgram.backward


def _off_by_a_percent(program: KernelProgram, *given: Any) -> list[Tensor | None]:
    found = _whole_backward(program, *given)
    return [None if gradient is None else 1.01 * gradient for gradient in found]


def _always_kept(pace: Pace) -> tuple[bool, str]:
    return True, ""


def _all_of(*breaks: AbstractContextManager[Any]) -> AbstractContextManager[Any]:
    stack = ExitStack()
    for each in breaks:
        stack.enter_context(each)
    return stack


def _kept_anyhow(*breaks: AbstractContextManager[Any]) -> AbstractContextManager[Any]:
    """Break things, and keep what is compiled: on a busy machine nothing may be surely faster."""
    return _all_of(replaced(f"{kernel_compiler.__name__}._verdict", _always_kept), *breaks)


def _slow_and_kept() -> AbstractContextManager[Any]:
    forward = f"{KernelProgram.__module__}.KernelProgram.forward"
    return _kept_anyhow(burning_cpu(forward, 0.05))


def _wrong_and_kept() -> AbstractContextManager[Any]:
    backward = f"{KernelProgram.__module__}.KernelProgram.backward"
    unchecked = replaced(f"{kernel_compiler.__name__}.difference", lambda *_: 0.0)
    return _kept_anyhow(replaced(backward, _off_by_a_percent), unchecked)


_SLOW_TO_LOAD = """
import time
from esper_async.kasmina.compiling import kernel_program
whole = kernel_program.KernelProgram.__init__
def slowly(self, folder):
    enough = time.process_time() + 2.5
    while time.process_time() < enough:
        pass
    whole(self, folder)
kernel_program.KernelProgram.__init__ = slowly
"""
_NEVER_AT_WORK = """
from esper_async.kasmina.compiling import kernel_forward
kernel_forward.run_compiled = lambda module, program: "not today"
"""


def _eager_anyhow(*given: Any, **named: Any) -> Compilation:
    return replace(_as_before(*given, **named), kept=False)


def _compiled_before(*breaks: AbstractContextManager[Any]) -> AbstractContextManager[Any]:
    """Break what comes after compiling."""
    return _all_of(replaced(_COMPILE, _as_before), *breaks)


BENCHMARK = Benchmark(
    name="compiled-kernels",
    question="do compiled kernels pay on this CPU, and are they ready at the second start?",
    measure=measure,
    mutants=(
        Mutant(
            "kept unmeasured",
            "a compiled kernel is kept whatever it costs, and takes 50 ms more",
            _slow_and_kept,
            fails=(SLOWEST,),
        ),
        Mutant(
            "gradients unchecked",
            "the compiled backward pass is off by a percent, and nobody compares",
            _wrong_and_kept,
            fails=(DIFFERENCE,),
        ),
        Mutant(
            "nothing is kept",
            "every kernel stays eager",
            lambda: replaced(_COMPILE, _eager_anyhow),
            fails=(KEPT,),
        ),
        Mutant(
            "compiled anew",
            "what the library has is compiled again",
            lambda: _compiled_before(replaced(f"{compilation.__name__}._has", lambda *_: False)),
            fails=(COMPILED_AGAIN,),
        ),
        Mutant(
            "compiled at load",
            "each kernel takes 2.5 s to load",
            lambda: _compiled_before(run_in_every_python(_SLOW_TO_LOAD)),
            fails=(READY,),
        ),
        Mutant(
            "loaded and not used",
            "the second process leaves its kernels eager",
            lambda: _compiled_before(run_in_every_python(_NEVER_AT_WORK)),
            fails=(AT_WORK,),
        ),
    ),
)
