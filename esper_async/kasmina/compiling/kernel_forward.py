"""A kernel that runs compiled: its attribute `forward` is a program, for as long as it fits.

The kernel's weights, buffers and names stay what they are, and so does its optimizer's state:
nothing is copied, and taking the attribute off gives the kernel as written back.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from esper_async.kasmina.compiling.kernel_program import KernelProgram, Trained

Slot = tuple[dict[str, Any], str, Tensor]


class CompiledKernelForward:
    """The forward pass of one kernel by a program; as written wherever that does not serve.

    That is: in evaluation, without gradients, for another batch size, dtype or memory layout,
    under autocast, under a function transform or a dispatch mode, while something is traced, and
    while other tensors stand in for the kernel's own.

    A copy of the kernel, or a pickle, has its plain forward pass.
    """

    def __init__(self, module: nn.Module, program: KernelProgram, slots: list[Slot]) -> None:
        self.module = module
        self.program = program
        self._slots = slots
        self._form = program.manifest.inputs[-1]

    def __call__(self, h: Tensor) -> Tensor:
        """Map activations (N, *shape) as the kernel's class does."""
        if not (_is_plain_surrounding() and self._serves(h)):
            answer: Tensor = type(self.module).forward(self.module, h)
            return answer
        inputs = [tensor for _, _, tensor in self._slots]
        compiled: Tensor = Trained.apply(self.program, self.module, *inputs, h)  # type: ignore[no-untyped-call]
        return compiled

    def _serves(self, h: Tensor) -> bool:
        return (
            self.module.training
            and h.requires_grad
            and torch.is_grad_enabled()
            and self._form.fits(h)
            and all(home[name] is tensor for home, name, tensor in self._slots)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.module, "forward")


def run_compiled(module: nn.Module, program: KernelProgram) -> str | None:
    """Let a kernel run by a program from its next step on; return why it cannot, if it cannot."""
    manifest = program.manifest
    slots = list(_slots(module))
    names = tuple(name for name, _ in [*module.named_parameters(), *module.named_buffers()])
    if names != manifest.names:
        return "it was made for a kernel of other weights"
    for (_, name, tensor), form in zip(slots, manifest.inputs[:-1], strict=True):
        if type(tensor) not in (nn.Parameter, Tensor) or not form.fits(tensor):
            return f"its weight {name!r} has another shape, dtype or memory layout"
    if any(part._forward_hooks or part._forward_pre_hooks for part in module.modules()):
        return "hooks look into its forward pass"
    module.forward = CompiledKernelForward(module, program, slots)
    return None


def run_as_written(module: nn.Module) -> None:
    """Give a kernel its own forward pass back."""
    if isinstance(module.__dict__.get("forward"), CompiledKernelForward):
        del module.__dict__["forward"]


def is_compiled(module: nn.Module) -> bool:
    """Whether a kernel runs by a program."""
    return isinstance(module.__dict__.get("forward"), CompiledKernelForward)


def _slots(module: nn.Module) -> Iterator[Slot]:
    """Yield where each weight is held, then each buffer, in the order of their names."""
    weights, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    for found, kind in ((weights, "_parameters"), (buffers, "_buffers")):
        for path, tensor in found.items():
            owner, _, name = path.rpartition(".")
            yield getattr(module.get_submodule(owner), kind), name, tensor


def _is_plain_surrounding() -> bool:
    """Whether nothing looks at, transforms or traces what is computed."""
    return not (
        torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
    )
