"""How a twin is trained beside a trainer: forward, loss, backward, clip and step, as it does it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper_async.kasmina.call import Forward, run_forward
from esper_async.kasmina.evaluation import Loss
from esper_async.kasmina.micro_batches import parts_of
from esper_async.kasmina.precision import Precision
from esper_async.kasmina.user_code import blaming

Clip = Callable[[nn.Module, Optimizer], object]
Divisor = Callable[[int], int]


class TwinStep:
    """A `train_step` made of what a trainer minimises.

    Args:
        forward: `(model, batch) -> (output, target)`.
        loss: `loss(output, target)`.
        precision: the trainer's, with a gradient scaler for each optimizer.
        clip: limits the gradients of a model that an optimizer trains; None does not.
        divisor: what the gradients of a step of so many batches are divided by.
    """

    def __init__(
        self,
        forward: Forward,
        loss: Loss,
        precision: Precision,
        *,
        clip: Clip | None,
        divisor: Divisor,
    ) -> None:
        self._forward = forward
        self._loss = loss
        self._precision = precision
        self._clip = clip
        self._divisor = divisor

    def __call__(self, model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
        """Take one optimizer step on a batch, or on several; return the mean loss ()."""
        parts = parts_of(batch)
        scaler = self._precision.scaler(optimizer)
        optimizer.zero_grad(set_to_none=True)
        losses = []
        for part in parts:
            with self._precision.autocast():
                output, target = run_forward(self._forward, model, part)
                with blaming("loss"):
                    loss = self._loss(output, target)
            losses.append(loss.detach())
            shared = loss / self._divisor(len(parts))
            with blaming("loss.backward"):
                (shared if scaler is None else scaler.scale(shared)).backward()  # type: ignore[no-untyped-call]
        if scaler is not None:
            scaler.unscale_(optimizer)
        if self._clip is not None:
            self._clip(model, optimizer)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        return torch.stack(losses).mean()
