"""The graft: a kernel joined to a site, and the blend of the two.

A grown model carries its grafts as submodules and forward hooks, so that it can be pickled, copied
and exported with nothing of Esper but this package.
"""

from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from esper_async.kasmina.kernels.confidence import ConfidenceGate
from esper_async.kasmina.kernels.setting import SettingRefusedError

Form = Literal["nchw", "ncl", "ntd", "nf"]
Formula = Literal["residual", "convex"]
BlendMode = Literal["residual", "convex", "per_channel", "confidence_gated"]
BLEND_MODES: tuple[BlendMode, ...] = get_args(BlendMode)
_ALPHA_SHAPES: dict[Form, tuple[int, ...]] = {
    "nchw": (-1, 1, 1),
    "ncl": (-1, 1),
    "ntd": (-1,),
    "nf": (-1,),
}


def first_tensor(output: Any) -> Tensor:
    """Return the activation in a module's output: the output itself or a tuple's first tensor."""
    return cast(Tensor, output[0] if isinstance(output, tuple) else output)


def with_first_tensor(output: Any, activation: Tensor) -> Any:
    """Return a module's output with another activation in it; a named tuple stays one."""
    if not isinstance(output, tuple):
        return activation
    parts = (activation, *output[1:])
    return type(output)(*parts) if hasattr(output, "_fields") else parts


class Graft(nn.Module):
    """Blend a kernel's output s with the host's activation h.

    residual: h + alpha * s, for kernels whose output is a change (near 0 at birth);
    convex: (1 - alpha) * h + alpha * s, for those whose output replaces h;
    per_channel: the fitting one of the two, with an alpha for each channel that moves in its turn;
    confidence_gated: the fitting one with alpha * g(h), where g in (0, 1) is learned.
    `alpha` in [0, 1] is a buffer, so that moving it recompiles nothing.

    Args:
        kernel: computes s; its `output` ("change" or "replacement") decides what fits.
        form: how the activation's dimensions are laid out.
        mode: how the two are blended.
        channels: of the activation; per_channel and confidence_gated need it.

    Raises:
        SettingRefusedError: the mode does not fit the kernel.
    """

    alpha: Tensor

    def __init__(
        self, kernel: nn.Module, *, form: Form, mode: BlendMode, channels: int = 1
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.form = form
        self.mode = mode
        self.formula = _formula(kernel, mode)
        self.gate: ConfidenceGate | None = None
        if mode == "confidence_gated":
            self.gate = ConfidenceGate(channels, channels_last=form == "ntd")
        alpha = torch.zeros(())
        if mode == "per_channel":
            alpha = torch.zeros(channels).reshape(_ALPHA_SHAPES[form])
        self.register_buffer("alpha", alpha)

    def forward(self, activation: Tensor, *, fully_on: bool = False) -> Tensor:
        """Return the blend, in the activation's own shape: (N,C,H,W), (N,C,L), (N,T,D) or (N,F).

        Inside a `TransformerEncoder` an evaluation with padding hands over a nested tensor.
        `fully_on` says that alpha is 1 everywhere: multiplying by it would change no bit, and in
        a shadow pass costs as much as a small kernel.
        """
        if activation.is_nested:
            rows = self._blend(activation.to_padded_tensor(0.0), fully_on)  # (N, T, D)
            lengths = [part.shape[0] for part in activation.unbind()]
            return torch.nested.as_nested_tensor(
                [row[:length] for row, length in zip(rows, lengths, strict=True)]
            )
        return self._blend(activation, fully_on)

    def _blend(self, activation: Tensor, fully_on: bool) -> Tensor:
        if self.form == "ncl":
            change: Tensor = self.kernel(activation.unsqueeze(2)).squeeze(2)
        else:
            change = self.kernel(activation)
        strength = None if fully_on else self.alpha
        if self.gate is not None:
            gate = self.gate(activation)
            strength = gate if strength is None else strength * gate
        if self.formula == "convex":
            change = change - activation
        if strength is not None:
            change = strength * change
        # under autocast each operation chooses its own precision
        return activation + change.to(activation.dtype)

    def set_alpha(self, value: float) -> None:
        """Move alpha, clamped to [0, 1].

        Where every channel has its own, `value` is how far they have come together: each takes half
        of the way, the first from the start, the last to the end.
        """
        value = min(max(value, 0.0), 1.0)
        if self.alpha.ndim == 0:
            self.alpha.fill_(value)
            return
        starts = torch.linspace(0.0, 1.0, self.alpha.numel(), device=self.alpha.device)
        self.alpha.copy_((2.0 * value - starts).clamp(0.0, 1.0).reshape(self.alpha.shape))


def fitting_blend(output: str) -> Formula:
    """Return the plain blend that fits kernels whose output is a "change" or a "replacement"."""
    return "convex" if output == "replacement" else "residual"


def _formula(kernel: nn.Module, mode: BlendMode) -> Formula:
    if mode not in BLEND_MODES:
        raise SettingRefusedError(f"no blend mode {mode!r}; known: {', '.join(BLEND_MODES)}")
    output = getattr(kernel, "output", None)
    if output is None and mode in ("residual", "convex"):
        return mode
    fitting = fitting_blend(output or "change")
    if mode not in (fitting, "per_channel", "confidence_gated"):
        raise SettingRefusedError(
            f"a kernel whose output is a {output} cannot be blended {mode}; what fits it is "
            f"{fitting}, per_channel or confidence_gated"
        )
    return fitting


class GraftHook:
    """A forward hook that sends a module's output through a graft; picklable and copyable."""

    def __init__(self, graft: Graft) -> None:
        self.graft = graft

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Return the output with its activation blended."""
        return with_first_tensor(output, self.graft(first_tensor(output)))


class FullyOnHook:
    """A forward hook that sends a module's output through a graft whose alpha is 1."""

    def __init__(self, graft: Graft) -> None:
        self.graft = graft

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Return the output with its activation blended."""
        return with_first_tensor(output, self.graft(first_tensor(output), fully_on=True))


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
