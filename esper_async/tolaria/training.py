"""One optimizer step, as the engine does it for the run and for every twin."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from esper_async.kasmina.call import default_forward, run_forward
from esper_async.kasmina.micro_batches import MicroBatches
from esper_async.kasmina.precision import Precision
from esper_async.kasmina.trial import TrainStep
from esper_async.kasmina.user_code import blame
from esper_async.tolaria.epoch_loader import length_of
from esper_async.tolaria.global_random import DETERMINISTIC
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.task import Task, TaskError

Watch = Callable[[Any, Any], None]


class LossError(TaskError):
    """The training loss became NaN or infinite, or exploded, and going back did not help."""


def make_train_step(
    task: Task, precision: Precision | None = None, *, watch: Watch | None = None
) -> TrainStep:
    """Return `(model, optimizer, batch) -> loss ()`: forward, backward, clip, step.

    The gradients of `MicroBatches` are averaged over its batches. Clipping covers the optimizer's
    own parameters: each owner's norm is its own. `watch` is told of each batch's output and target.
    """
    precision = precision or Precision()

    loss_of = _make_loss(task, precision, watch)

    def gradients(model: nn.Module, part: Any, count: int, scaler: GradScaler | None) -> Tensor:
        """Add a part's share of the gradients; return its loss ()."""
        loss = loss_of(model, part)
        found = loss.detach()
        if count > 1:
            loss = loss / count
        if scaler is not None:
            loss = scaler.scale(loss)
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        except Exception as error:
            blame("loss.backward", error)
            raise
        return found

    def train_step(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
        scaler = precision.scaler(optimizer)
        optimizer.zero_grad(set_to_none=True)  # before the forward pass, which takes its memory
        if isinstance(batch, MicroBatches):
            shares = [gradients(model, part, len(batch), scaler) for part in batch]
            found = torch.stack(shares).mean()
        else:
            found = gradients(model, batch, 1, scaler)
        if scaler is not None:
            scaler.unscale_(optimizer)
        if task.clip_norm is not None:
            owned = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(owned, task.clip_norm)
        try:
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
        except Exception as error:
            blame("optimizer.step", error)
            raise
        return found

    return train_step


def _make_loss(
    task: Task, precision: Precision, watch: Watch | None
) -> Callable[[nn.Module, Any], Tensor]:
    """Return `(model, part) -> loss ()`, in the precision of training passes."""
    forward = task.forward or default_forward

    def loss_of(model: nn.Module, part: Any) -> Tensor:
        output, target = run_forward(forward, model, part)
        if watch is not None:
            watch(output, target)
        try:
            return task.loss(output, target)
        except Exception as error:
            blame("loss", error)
            raise

    def loss_in_half(model: nn.Module, part: Any) -> Tensor:
        with precision.autocast():
            return loss_of(model, part)

    return loss_of if precision.is_full else loss_in_half


def count_steps(task: Task, options: RunOptions) -> int | None:
    """Return how many optimizer steps a run has; None where the training loader has no length."""
    batches = length_of(task.train_loader)
    return None if batches is None else -(-batches // options.accumulate) * options.epochs


def count_boundaries(task: Task, options: RunOptions) -> int:
    """Return how many boundaries a run has, the last one at its end.

    Raises:
        TaskError: they are counted in steps, and the loader has no length or the run too few.
    """
    if options.boundary_every == "epoch":
        return options.epochs
    steps = count_steps(task, options)
    if steps is None:
        raise TaskError(
            "run.boundary_every in steps needs a train_loader with a length; "
            'use boundary_every = "epoch" or give it __len__'
        )
    if steps < options.boundary_every:
        raise TaskError(
            f"run.boundary_every is {options.boundary_every} steps, but the whole run has "
            f"{steps}; lower it or train for more epochs"
        )
    return -(-steps // options.boundary_every)


def choose_device(wanted: str) -> torch.device:
    """Return the device of a run.

    Raises:
        TaskError: a CUDA device was asked for and is not there.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TaskError(
            f'run.device is "{wanted}", but torch sees no CUDA device here; use "auto" or "cpu"'
        )
    return device


def be_deterministic(device: torch.device, *, strict: bool) -> None:
    """Let torch use no algorithm whose result may vary; where there is no other, raise if `strict`.

    The CPU needs it, too: with several threads the gradient of `x[index]` is added up in any order.
    What torch would fill new tensors with, to uncover who reads them unwritten, costs time and
    makes nothing repeat itself.
    """
    if device.type == "cuda":  # cuBLAS reads it when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    DETERMINISTIC.fill_uninitialized_memory = False


def choose_threads(options: RunOptions) -> int:
    """Return the number of torch threads: as asked for, else all cores but one."""
    if options.threads != "auto":
        return options.threads
    return max(len(os.sched_getaffinity(0)) - 1, 1)
