"""Mixed precision: which passes compute in half precision, and how small gradients survive it.

After Micikevicius et al., "Mixed Precision Training" (2018), sections 3.1 (weights stay in single
precision) and 3.2 (loss scaling). Evaluations always run in single precision: gates compare
differences that half precision would drown.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

PrecisionName = Literal["32", "bf16-mixed", "16-mixed"]
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)
_HALVES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_AS_IT_IS = nullcontext()


class Precision:
    """The precision of a run's training passes, with one gradient scaler for each owner.

    The owners are the optimizers: the host's, the twin's, and that of every seed in TRAINING. So an
    overflow in a kernel makes nobody but that kernel skip a step.

    Args:
        name: "32", "bf16-mixed" or "16-mixed"; only the last one scales gradients.
        device_type: "cpu" or "cuda".
        scalers: the caller's own, by their optimizers.
        twins_share: a twin is trained with the host's scaler where that is the caller's, as it must
            be where the caller's own code trains twins.
    """

    def __init__(
        self,
        name: PrecisionName = "32",
        device_type: str = "cpu",
        scalers: dict[Optimizer, GradScaler] | None = None,
        *,
        twins_share: bool = True,
    ) -> None:
        if name not in PRECISIONS:
            raise ValueError(unknown_precision(name))
        self.name = name
        self._device_type = device_type
        self._half = _HALVES.get(name)
        self._twins_share = twins_share and bool(scalers)
        self._scalers: WeakKeyDictionary[Optimizer, GradScaler] = WeakKeyDictionary(scalers or {})

    @property
    def is_full(self) -> bool:
        """Whether nothing computes in half precision."""
        return self._half is None

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of a training pass: forward and loss, not backward."""
        if self._half is None:
            return _AS_IT_IS
        return torch.autocast(self._device_type, dtype=self._half)

    def scaler(self, owner: Optimizer) -> GradScaler | None:
        """Return the gradient scaler of an optimizer, made where there was none; None if unused."""
        if self._half is not torch.float16:
            return None
        if owner not in self._scalers:
            self._scalers[owner] = GradScaler(self._device_type)
        return self._scalers[owner]

    def follow(self, owner: Optimizer, other: Optimizer) -> None:
        """Give an optimizer's scaler the state of another's; one that twins share serves both."""
        if self._twins_share:
            self._scalers[owner] = self._scalers[other]
            return
        mine, theirs = self.scaler(owner), self.scaler(other)
        if mine is not None and theirs is not None:
            mine.load_state_dict(theirs.state_dict())

    def state_of(self, owner: Optimizer | None) -> dict[str, Any] | None:
        """Return the state of an optimizer's scaler, None where there is none."""
        scaler = None if owner is None else self.scaler(owner)
        return None if scaler is None else scaler.state_dict()

    def load_state_of(self, owner: Optimizer | None, state: dict[str, Any] | None) -> None:
        """Take over what `state_of` returned."""
        scaler = None if owner is None else self.scaler(owner)
        if scaler is not None and state is not None:
            scaler.load_state_dict(state)


def unknown_precision(name: object) -> str:
    """Return what is wrong with the name of a precision, and which there are."""
    return f"precision knows no {name!r}; known: {', '.join(map(repr, PRECISIONS))}"


def unscale(optimizer: Optimizer, scaler: GradScaler) -> bool:
    """Divide an optimizer's gradients by the scale of another owner's loss; say if all are finite.

    It leaves that scaler as it is: whether the scale is right is for its owner to find out.
    """
    gradients = [
        parameter.grad
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    if not gradients:
        return True
    torch._foreach_mul_(gradients, 1.0 / scaler.get_scale())
    norms = torch.stack(torch._foreach_norm(gradients))
    return bool(torch.isfinite(norms).all())
