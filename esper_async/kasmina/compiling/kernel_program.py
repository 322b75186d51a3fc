"""A compiled kernel: two shared libraries, joined so that gradients flow through them.

It is loaded without a compiler and without dynamo. It serves one form of input; the kernel runs as
it is written wherever anything else is asked of it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from esper_async.kasmina.compiling.kernel_graphs import Source

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class TensorForm:
    """What a compiled pass takes for granted of a tensor: shape, strides in elements, dtype."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, tensor: Tensor) -> "TensorForm":
        """Return the form of a tensor."""
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(tuple(tensor.shape), tuple(tensor.stride()), dtype)

    def empty(self) -> Tensor:
        """Return a tensor of this form on the CPU, with anything in it."""
        return torch.empty_strided(self.shape, self.stride, dtype=getattr(torch, self.dtype))

    def fits(self, tensor: Tensor) -> bool:
        """Whether a tensor on the CPU has this form; dimensions of one may have any stride."""
        if tuple(tensor.shape) != self.shape or tensor.device.type != "cpu":
            return False
        strides = zip(tensor.stride(), self.stride, self.shape, strict=True)
        same = all(mine == wanted or size == 1 for mine, wanted, size in strides)
        return same and tensor.dtype is getattr(torch, self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What must be known of the libraries to call them.

    `inputs` are the forms of the weights and buffers in `names`, and of the activation behind them,
    `tangent` that in which the backward pass takes the gradient of the answer; `handed` and
    `gradients` say as in `KernelGraphs` where tensors come from.
    """

    names: tuple[str, ...]
    inputs: tuple[TensorForm, ...]
    tangent: TensorForm
    handed: tuple[Source, ...]
    gradients: tuple[Source | None, ...]
    forward: str
    backward: str

    def write(self, folder: Path) -> None:
        """Write it beside the libraries."""
        (folder / MANIFEST).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read what `write` wrote. Raises OSError, ValueError, TypeError, KeyError."""
        found = json.loads((folder / MANIFEST).read_text())
        return cls(
            names=tuple(found["names"]),
            inputs=tuple(_form(each) for each in found["inputs"]),
            tangent=_form(found["tangent"]),
            handed=tuple(cast(Source, tuple(each)) for each in found["handed"]),
            gradients=tuple(
                None if each is None else cast(Source, tuple(each)) for each in found["gradients"]
            ),
            forward=found["forward"],
            backward=found["backward"],
        )


def _form(found: dict[str, Any]) -> TensorForm:
    return TensorForm(tuple(found["shape"]), tuple(found["stride"]), found["dtype"])


class KernelProgram:
    """The libraries of one kernel, loaded from `folder`, which is not needed afterwards.

    `size_bytes` is what they take on disk, and about that in memory.

    Native code: load only what this installation's own forge has made. Raises OSError, ValueError,
    TypeError, KeyError, RuntimeError.
    """

    def __init__(self, folder: Path) -> None:
        from torch._C import _aoti

        self.manifest = manifest = Manifest.read(folder)
        libraries = (folder / manifest.forward, folder / manifest.backward)
        self.size_bytes = sum(path.stat().st_size for path in libraries)
        self._forward = _aoti.AOTIModelContainerRunnerCpu(str(folder / manifest.forward), 1)
        self._backward = _aoti.AOTIModelContainerRunnerCpu(str(folder / manifest.backward), 1)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the answer (N, *shape) and what was computed for later."""
        return self._forward.run(list(inputs))

    def backward(
        self, tangent: Tensor, inputs: Sequence[Tensor], answer: Tensor, computed: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Return the gradient of each input for that of the answer, `tangent` (N, *shape)."""
        if not self.manifest.tangent.fits(tangent):
            tangent = self.manifest.tangent.empty().copy_(tangent)
        places: dict[str, Sequence[Tensor]] = {
            "input": inputs,
            "answer": (answer,),
            "computed": computed,
            "tangent": (tangent,),
        }
        handed = [places[place][which] for place, which in self.manifest.handed]
        found = {"computed": self._backward.run(handed), "handed": handed}
        return [
            None if source is None else found[source[0]][source[1]]
            for source in self.manifest.gradients
        ]

    def warm(self) -> None:
        """Run both passes once on zeros, so that the first real step finds the code in memory."""
        inputs = [form.empty().zero_() for form in self.manifest.inputs]
        answer, *computed = self.forward(inputs)
        self.backward(torch.zeros_like(answer), inputs, answer, computed)


class Trained(torch.autograd.Function):
    """The forward of a program, with its backward pass as the gradient."""

    @staticmethod
    def forward(ctx: Any, program: KernelProgram, module: nn.Module, *inputs: Tensor) -> Tensor:
        """Map weights, buffers and an activation (N, *shape) to the answer of the same shape."""
        answer, *computed = program.forward(inputs)
        ctx.program, ctx.module, ctx.count = program, module, len(inputs)
        ctx.save_for_backward(*inputs, answer, *computed)
        return answer

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients; where they are to have gradients, by the kernel as written."""
        (tangent,) = tangents
        inputs, (answer, *computed) = (
            ctx.saved_tensors[: ctx.count],
            ctx.saved_tensors[ctx.count :],
        )
        if torch.is_grad_enabled():
            return None, None, *_as_written(ctx, tangent, inputs)
        found = ctx.program.backward(tangent, inputs, answer, computed)
        needed = ctx.needs_input_grad[2:]
        gradients = (each if wanted else None for each, wanted in zip(found, needed, strict=True))
        return None, None, *gradients


def _as_written(ctx: Any, tangent: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
    needed = ctx.needs_input_grad[2:]
    wanted = [tensor for tensor, is_needed in zip(inputs, needed, strict=True) if is_needed]
    answer = type(ctx.module).forward(ctx.module, inputs[-1])
    found = iter(torch.autograd.grad(answer, wanted, tangent, create_graph=True, allow_unused=True))
    return [next(found) if is_needed else None for is_needed in needed]
