"""The graft: a kernel joined to a site, and the blend of the two.

A grown model carries its grafts as submodules and forward hooks, so that it can be pickled, copied
and exported with nothing of Esper but this package.
"""

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Form = Literal["nchw", "ncl", "ntd", "nf"]
BlendMode = Literal["residual", "convex"]


def first_tensor(output: Any) -> Tensor:
    """Return the activation in a module's output: the output itself or a tuple's first tensor."""
    return cast(Tensor, output[0] if isinstance(output, tuple) else output)


class Graft(nn.Module):
    """Blend a kernel's output s with the host's activation h.

    residual: h + alpha * s, for kernels whose output is a change (near 0 at birth);
    convex: (1 - alpha) * h + alpha * s, for those whose output replaces h.
    `alpha` in [0, 1] is a buffer, so that moving it recompiles nothing.
    """

    alpha: Tensor

    def __init__(self, kernel: nn.Module, *, form: Form, mode: BlendMode) -> None:
        super().__init__()
        self.kernel = kernel
        self.form = form
        self.mode = mode
        self.register_buffer("alpha", torch.zeros(()))

    def forward(self, activation: Tensor) -> Tensor:
        """Return the blend, in the activation's own shape: (N,C,H,W), (N,C,L), (N,T,D) or (N,F).

        Inside a `TransformerEncoder` an evaluation with padding hands over a nested tensor.
        """
        if activation.is_nested:
            rows = self._blend(activation.to_padded_tensor(0.0))  # (N, T, D)
            lengths = [part.shape[0] for part in activation.unbind()]
            return torch.nested.as_nested_tensor(
                [row[:length] for row, length in zip(rows, lengths, strict=True)]
            )
        return self._blend(activation)

    def _blend(self, activation: Tensor) -> Tensor:
        if self.form == "ncl":
            change: Tensor = self.kernel(activation.unsqueeze(2)).squeeze(2)
        else:
            change = self.kernel(activation)
        change = change.to(activation.dtype)  # under autocast each operation chooses its own
        if self.mode == "residual":
            return activation + self.alpha * change
        return activation + self.alpha * (change - activation)

    def set_alpha(self, value: float) -> None:
        """Move alpha, clamped to [0, 1]."""
        self.alpha.fill_(min(max(value, 0.0), 1.0))


class GraftHook:
    """A forward hook that sends a module's output through a graft; picklable and copyable."""

    def __init__(self, graft: Graft) -> None:
        self.graft = graft

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Return the output with its activation blended."""
        if isinstance(output, tuple):
            return (self.graft(output[0]), *output[1:])
        return self.graft(output)


def attach(site: nn.Module, graft: Graft, name: str) -> RemovableHandle:
    """Join `graft` to the module `site` as its submodule `name` and in its forward pass.

    Raises:
        ValueError: the module runs its children in a row, or already has such a child.
    """
    if isinstance(site, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        raise ValueError(f"a graft cannot be a child of a {type(site).__name__}")
    if hasattr(site, name):
        raise ValueError(f"the site already has an attribute {name!r}")
    site.add_module(name, graft)
    return site.register_forward_hook(GraftHook(graft))


def grafts_of(model: nn.Module) -> dict[str, Graft]:
    """Return every graft in a model by its qualified name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, Graft)}


def detach(site: nn.Module, name: str) -> None:
    """Take the graft `name` out of the forward pass and the module tree of `site`."""
    graft = site.get_submodule(name)
    for key, hook in list(site._forward_hooks.items()):
        if isinstance(hook, GraftHook) and hook.graft is graft:
            del site._forward_hooks[key]
    delattr(site, name)
