"""Compiling a kernel: both passes, measured against the eager kernel, kept only where faster.

A pure function of code, interface, settings, batch size, threads, torch version and CPU (the times
apart). The forge runs it in its worker, never a process that trains.
"""

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from esper_async.kasmina.code_hash import code_hash
from esper_async.kasmina.compiling.cpu import cpu_name
from esper_async.kasmina.compiling.kernel_forward import run_as_written, run_compiled
from esper_async.kasmina.compiling.kernel_graphs import (
    KernelGraphs,
    NotCompilableError,
    graphs_of,
)
from esper_async.kasmina.compiling.kernel_program import KernelProgram, Manifest, TensorForm
from esper_async.kasmina.compiling.kernel_record import Compilation, Strategy
from esper_async.kasmina.compiling.measuring import Pace, difference, measure
from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import Kernel, build_kernel, kernel_class
from esper_async.kasmina.kernels.setting import resolve
from esper_async.kasmina.proof import certificate_key

WORTH = 0.95
"""A compiled kernel is kept if it surely takes no more than this share of the eager one's time."""
_TOLERANCE = {"float32": 1e-4, "float64": 1e-9, "bfloat16": 3e-2, "float16": 1e-2}
# Raised by one whenever programs are made or called in another way, so that old ones lapse.
_RULES = 2
_NO_ROOM = ("No space left on device", "Disk quota exceeded")
_OPTIONS: Mapping[Strategy, Mapping[str, object]] = {
    Strategy.FAST: {"pattern_matcher": False, "aot_inductor.compile_wrapper_opt_level": "O0"},
    Strategy.STANDARD: {},
    Strategy.AGGRESSIVE: {"max_autotune": True},
}


class CompilerFailedError(Exception):
    """The compiler failed; another try, or another strategy, may do better."""


def compilation_key(
    blueprint_id: str,
    interface: SiteInterface,
    *,
    parameters: Mapping[str, object] | None = None,
    batch: int,
    threads: int,
) -> str:
    """Return the name under which what came of it is stored: what it holds for, hashed.

    Raises:
        KernelRefusedError: there is no such blueprint.
        SettingRefusedError: a parameter is unknown or out of bounds.
    """
    settings = resolve(
        kernel_class(blueprint_id, drill=True).blueprint.settings, parameters or {}, interface
    )
    held = {
        "rules": _RULES,
        "code": code_hash(blueprint_id),
        "settings": settings,
        "batch": batch,
        "threads": threads,
        "torch": torch.__version__,
        "cpu": cpu_name(),
    }
    digest = sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()
    return f"{blueprint_id}-{interface.key}-x{batch}-{digest[:24]}"


def compile_kernel(
    blueprint_id: str,
    interface: SiteInterface,
    folder: Path,
    *,
    parameters: Mapping[str, object] | None = None,
    batch: int,
    threads: int,
    strategy: Strategy,
    why: str = "",
) -> Compilation:
    """Compile a kernel into `folder` (empty), and compare it with the eager one.

    Sets torch's thread count. Not for two threads at once.

    Args:
        batch: samples in a batch.
        threads: torch threads of the run that asks.
        strategy: EMERGENCY compiles nothing, and records `why`.

    Raises:
        KernelRefusedError, SettingRefusedError: there is no such kernel, or it is quarantined.
        CompilerFailedError: another try or strategy may do better.
        OSError: there is no room on the disk.
    """
    torch.set_num_threads(threads)
    began = perf_counter()
    kernel = build_kernel(blueprint_id, interface, parameters, seed=0)
    activation = _activation(interface, batch)
    found: dict[str, Any] = {}
    kept, reason = False, why or "nothing was compiled"
    if strategy is not Strategy.EMERGENCY:
        _nudge(kernel)
        try:
            graphs = graphs_of(kernel, activation)
            _compile(graphs, kernel, activation, folder, strategy=strategy, threads=threads)
            found["compile_ms"] = (perf_counter() - began) * 1e3
            kept, reason = _compare(kernel, activation, folder, found)
        except NotCompilableError as refusal:
            reason = str(refusal)
    return Compilation(
        key=compilation_key(
            blueprint_id, interface, parameters=parameters, batch=batch, threads=threads
        ),
        certificate_key=certificate_key(blueprint_id, interface, parameters=parameters),
        blueprint_id=blueprint_id,
        interface=interface.key,
        settings=resolve(kernel.blueprint.settings, parameters or {}, interface),
        batch=batch,
        threads=threads,
        strategy=strategy,
        kept=kept,
        reason=reason,
        torch_version=torch.__version__,
        **found,
    )


def _activation(interface: SiteInterface, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, interface.dtype)
    h = torch.randn(batch, *interface.shape, generator=generator).to(dtype)
    if interface.layout == "channels_last":
        h = h.contiguous(memory_format=torch.channels_last)
    return h


def _nudge(kernel: Kernel) -> None:
    """Move every weight a little: at birth a change is zero, and hides what differs before it."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in kernel.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise.to(parameter.dtype), alpha=0.02)


@dataclass(frozen=True, slots=True)
class Examples:
    """What both passes of a kernel are given, for one batch."""

    inputs: list[Tensor]
    handed: list[Tensor]
    tangent: TensorForm

    @classmethod
    def of(cls, graphs: KernelGraphs, kernel: nn.Module, activation: Tensor) -> "Examples":
        """Run the forward graph once on activations (N, *shape)."""
        weights, buffers = dict(kernel.named_parameters()), dict(kernel.named_buffers())
        inputs = [each.detach() for each in (*weights.values(), *buffers.values(), activation)]
        with torch.no_grad():
            answer, *computed = graphs.forward(*inputs)
        form = TensorForm.of(answer)
        form = replace(form, stride=graphs.tangent_stride or form.stride)
        tangent = form.empty().copy_(answer)
        places = {"input": inputs, "answer": [answer], "computed": computed, "tangent": [tangent]}
        return cls(inputs, [places[place][which] for place, which in graphs.handed], form)

    def manifest(self, graphs: KernelGraphs, *, forward: str, backward: str) -> Manifest:
        """Return what must be known to call the libraries of those names."""
        return Manifest(
            names=graphs.names,
            inputs=tuple(TensorForm.of(each) for each in self.inputs),
            tangent=self.tangent,
            handed=graphs.handed,
            gradients=graphs.gradients,
            forward=forward,
            backward=backward,
        )


def _compile(
    graphs: KernelGraphs,
    kernel: Kernel,
    activation: Tensor,
    folder: Path,
    *,
    strategy: Strategy,
    threads: int,
) -> None:
    """Leave both libraries in `folder`, with what must be known to call them."""
    examples = Examples.of(graphs, kernel, activation)
    libraries = [
        _library(graph, given, folder / name, strategy=strategy, threads=threads)
        for name, graph, given in (
            ("forward", graphs.forward, examples.inputs),
            ("backward", graphs.backward, examples.handed),
        )
    ]
    forward, backward = (str(library.relative_to(folder)) for library in libraries)
    examples.manifest(graphs, forward=forward, backward=backward).write(folder)


def _library(
    graph: GraphModule, given: list[Tensor], folder: Path, *, strategy: Strategy, threads: int
) -> Path:
    from torch._inductor import aot_compile

    folder.mkdir()
    options = {
        "aot_inductor.output_path": str(folder),
        "compile_threads": 1,
        "cpp.threads": threads,
        **_OPTIONS[strategy],
    }
    try:
        with torch.no_grad():
            examples: Any = tuple(each.detach() for each in given)
            made = aot_compile(graph, examples, options=options)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        if any(words in told for words in _NO_ROOM):
            raise OSError(errno.ENOSPC, f"no room to compile in: {told[-500:]}") from error
        raise CompilerFailedError(told[:2000]) from error
    return Path(str(made))


def _compare(
    kernel: Kernel, activation: Tensor, folder: Path, found: dict[str, Any]
) -> tuple[bool, str]:
    """Note how the compiled kernel compares; return whether it is kept, and why not."""
    program = KernelProgram(folder)
    eager = _results(kernel, activation)
    misfit = run_compiled(kernel, program)
    if misfit is not None:
        raise NotCompilableError(f"cannot run compiled: {misfit}")
    try:
        compiled = _results(kernel, activation)
        differs = max(map(difference, compiled, eager))
        differs = max(map(difference, compiled, eager))
        if isfinite(differs):
            found["largest_difference"] = differs
        tolerance = _TOLERANCE[str(activation.dtype).removeprefix("torch.")]
        if differs > tolerance:
            return False, f"answers differ from eager by {differs:.2g}, more than {tolerance}"
        pace = measure(kernel, activation, lambda: run_as_written(kernel), program)
    finally:
        run_as_written(kernel)
    found.update(pace.figures())
    return _verdict(pace)


def _verdict(pace: Pace) -> tuple[bool, str]:
    if pace.ratio_high <= WORTH:
        return True, ""
    return False, (
        f"it takes {pace.ratio:.2f} of the eager kernel's time (up to {pace.ratio_high:.2f}), "
        f"which is not surely less than {WORTH}"
    )


def _results(kernel: Kernel, activation: Tensor) -> list[Tensor]:
    """Return the answer and every gradient, of a loss that weighs each value differently."""
    kernel.zero_grad(set_to_none=True)
    h = activation.detach().requires_grad_()
    answer: Tensor = kernel(h)
    weights = torch.linspace(0.5, 1.5, answer.numel()).reshape(answer.shape).to(answer.dtype)
    (answer * weights).float().sum().backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in kernel.parameters() if p.grad is not None]
    assert h.grad is not None
    return [answer.detach(), h.grad, *gradients]
