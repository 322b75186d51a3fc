"""What every callback does: the steps and boundaries of a grower inside somebody else's loop."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from esper_async.integrations.errors import UnsupportedLoopError
from esper_async.integrations.twin_step import Clip, Divisor, TwinStep
from esper_async.kasmina.call import default_forward
from esper_async.kasmina.evaluation import Loss
from esper_async.kasmina.kernels.graft import grafts_of
from esper_async.kasmina.micro_batches import step_of
from esper_async.kasmina.precision import Precision, PrecisionName
from esper_async.tolaria.boundary_report import BoundaryReport
from esper_async.tolaria.global_random import undisturbed
from esper_async.tolaria.grower import Grower

_OF_THE_TRAINER = ("precision", "scaler")


class LoopGrowth:
    """A grower whose loop is a trainer's; the trainer's events drive it.

    The trainer's own random numbers are as they would be without it.

    Args:
        loss: `loss(output, target)`.
        options: further keyword arguments of `Grower`.

    Attributes:
        grower: the grower of the present or last run; None before the first.
        reports: what happened at each of its boundaries.

    Raises:
        TypeError: `Grower` has no such argument, or the trainer decides it.
    """

    def __init__(self, loss: Loss, options: Mapping[str, Any]) -> None:
        for name in _OF_THE_TRAINER:
            if name in options:
                raise TypeError(f"leave out {name}=: it is taken from the trainer")
        inspect.signature(Grower).bind_partial(loss=loss, **options)
        self.grower: Grower | None = None
        self.reports: list[BoundaryReport] = []
        self._loss = loss
        self._options = dict(options)
        self._boundary_step = 0

    def start(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        precision: PrecisionName,
        scaler: GradScaler | None,
        clip: Clip | None,
        divisor: Divisor,
        boundaries: int | None,
        saved: Mapping[str, Any] | None,
    ) -> None:
        """Begin to grow a model, or go on from what `state_dict` returned.

        Args:
            model: the one that the trainer trains.
            optimizer: torch's own, without wrappers.
            precision: of the trainer's passes.
            scaler: the trainer's, with "16-mixed".
            clip: limits gradients as the trainer does.
            divisor: what the trainer divides the gradients of a step of so many batches by.
            boundaries: how often the trainer will validate, where that is known.
            saved: None to begin.

        Raises:
            UnsupportedLoopError: the model has grown already, or is held in half precision.
            RuntimeError: the saved state is of another architecture.
        """
        _refuse_a_model_that_has_grown(model)
        _refuse_half_precision(model)
        options: dict[str, Any] = {"boundaries": boundaries, **self._options}
        told: Any = {"precision": precision, "scaler": scaler}
        if "train_step" not in options:  # our own keeps a twin's scaler apart from the trainer's
            scalers = None if scaler is None else {optimizer: scaler}
            device = next(model.parameters()).device.type
            told = {"precision": Precision(precision, device, scalers, twins_share=False)}
            forward = options.get("forward") or default_forward
            options["train_step"] = TwinStep(
                forward, self._loss, told["precision"], clip=clip, divisor=divisor
            )
        self.grower = Grower(model, optimizer, loss=self._loss, **told, **options)
        self.reports = []
        self._boundary_step = 0
        if saved is not None:
            self.grower.load_state_dict(saved["grower"])
            self._boundary_step = saved["boundary_step"]

    def after_step(self, batches: Sequence[Any]) -> None:
        """Go on by one optimizer step that the trainer took on `batches`, of which it had one or
        more.
        """
        if self.grower is not None and batches:
            with self.grower.step(step_of(batches)):
                pass  # the trainer's step is over already

    def is_due(self, step: int) -> bool:
        """Whether a trainer that has validated after `step` optimizer steps has come to a boundary:
        once a step, and not before the first.
        """
        return self.grower is not None and step not in (0, self._boundary_step)

    def boundary(self, loader: Iterable[Any], *, step: int) -> None:
        """Decide, grow and advance, by what the decision split shows after `step` steps."""
        if self.grower is not None:
            self._boundary_step = step
            with _able_to_grow():
                self.reports.append(self.grower.boundary(loader))

    def finish(self, loader: Iterable[Any]) -> None:
        """End growth; what is kept stays in the model."""
        if self.grower is not None:
            with _able_to_grow():
                self.grower.finish(loader)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs; its tensors are shared with the living run."""
        if self.grower is None:
            return {}
        return {"grower": self.grower.state_dict(), "boundary_step": self._boundary_step}


@contextmanager
def _able_to_grow() -> Iterator[None]:
    """Leave the trainer's random numbers alone, and the mode in which it validates.

    Parameters that are made in inference mode could never be trained.
    """
    with undisturbed(), torch.inference_mode(mode=False), torch.enable_grad():  # type: ignore[no-untyped-call]
        yield


def _refuse_a_model_that_has_grown(model: nn.Module) -> None:
    grafts = sorted(grafts_of(model))
    if grafts:
        raise UnsupportedLoopError(
            f"the model holds seeds of an earlier run ({', '.join(grafts)}); to go on growing, "
            f"resume from a checkpoint in a fresh model; to train it on as it is, leave out the "
            f"callback"
        )


def _refuse_half_precision(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise UnsupportedLoopError(
                f"the parameter {name} is {str(parameter.dtype).removeprefix('torch.')}; growth "
                f"needs weights in float32, which a trainer's mixed precision may compute with "
                f"in half precision"
            )
