"""The host's learning-rate schedule, as a task's factory makes it."""

import inspect
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau

from esper_async.tolaria.lr import LRController
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.task import Task, TaskError, told_as
from esper_async.tolaria.training import count_steps

_TOTAL = "total"
"""A factory with a parameter of this name is told how often its schedule will be stepped."""


def make_rates(
    task: Task,
    options: RunOptions,
    optimizer: Optimizer,
    boundaries: int,
    *,
    on_violation: Callable[[str], object],
) -> LRController:
    """Return the authority over a run's rates, with the task's schedule.

    Raises:
        TaskError: there is no such schedule.
    """
    scheduler = make_scheduler(
        task, optimizer, boundaries=boundaries, steps=count_steps(task, options)
    )
    return LRController(
        optimizer,
        warmup_steps=options.growth.warmup_steps,
        scheduler=scheduler,
        every=task.scheduler_every,
        primary=task.primary_key,
        on_violation=on_violation,
    )


def make_scheduler(
    task: Task, optimizer: Optimizer, *, boundaries: int, steps: int | None
) -> LRScheduler:
    """Return the task's schedule, else a cosine to zero over the whole run.

    `steps` is how many optimizer steps the run has, None where the loader cannot tell.

    Raises:
        TaskError: the task's factory raised, returned something else, or a schedule that cannot be
            stepped as often as the task says; the total is needed and not known.
    """
    total = boundaries if task.scheduler_every == "boundary" else steps
    if task.scheduler is None:
        return CosineAnnealingLR(optimizer, T_max=max(_known(total), 1))
    given = {_TOTAL: _known(total)} if _takes_total(task.scheduler) else {}
    right = (
        f"it should take the optimizer (and `{_TOTAL}`, if it likes) and return a scheduler, which "
        f"is stepped once a {task.scheduler_every}"
    )
    with told_as("scheduler", right):
        made = task.scheduler(optimizer, **given)
    if not hasattr(made, "step"):
        raise TaskError(f"Task.scheduler returned {made!r}; {right}")
    if isinstance(made, ReduceLROnPlateau):
        _check_plateau(made, task)
    return made


def _known(total: int | None) -> int:
    if total is None:
        raise TaskError(
            'Task.scheduler_every is "step" and the schedule needs to know how many steps the run '
            "has, but the train_loader has no length; give it __len__, or a scheduler that needs "
            "no total"
        )
    return total


def _takes_total(factory: Any) -> bool:
    try:
        return _TOTAL in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # of a callable without a signature
        return False


def _check_plateau(scheduler: ReduceLROnPlateau, task: Task) -> None:
    """Refuse a schedule that waits for a metric where it is told of none, or of the wrong one."""
    if task.scheduler_every == "step":
        raise TaskError(
            "Task.scheduler returned a ReduceLROnPlateau, which waits for a metric of a boundary; "
            'it cannot be stepped with scheduler_every = "step"'
        )
    if scheduler.mode == "max" and not task.larger_is_better:
        raise TaskError(
            'Task.scheduler returned a ReduceLROnPlateau with mode="max", which is told the '
            f'primary metric, but {task.primary_key} is better when smaller; use mode="min", '
            "which is told the validation loss, or name a primary_metric"
        )
