"""What the built-in classifiers share: metric, optimizer, schedule, and the `Task` itself."""

from collections.abc import Iterable
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler

from esper_async.tasks.splits import Loaders
from esper_async.tolaria.task import SchedulerFactory, Task

Schedule = Literal["cosine", "constant"]


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Return 1.0 where the largest logit of `output` (N, C) is `target` (N,), else 0.0: (N,)."""
    return (output.argmax(dim=1) == target).float()


def adam(parameters: Iterable[nn.Parameter], *, learning_rate: float) -> Optimizer:
    """Build the optimizer every built-in task trains its host with."""
    return Adam(parameters, lr=learning_rate)


def constant_schedule(optimizer: Optimizer) -> LRScheduler:
    """Keep the learning rate where it is."""
    return ConstantLR(optimizer, factor=1.0, total_iters=0)


def scheduler_of(schedule: Schedule) -> SchedulerFactory | None:
    """Return what `Task.scheduler` takes: None is the engine's own cosine.

    Raises:
        ValueError: no schedule of that name.
    """
    if schedule == "cosine":
        return None
    if schedule == "constant":
        return constant_schedule
    raise ValueError(f"schedule {schedule!r} is neither 'cosine' nor 'constant'")


def classification_task(
    name: str, model: nn.Module, loaders: Loaders, *, learning_rate: float, schedule: Schedule
) -> Task:
    """Assemble a task with cross-entropy loss and accuracy as its primary metric."""
    return Task(
        name=name,
        model=model,
        train_loader=loaders.train,
        validation_loader=loaders.validation,
        test_loader=loaders.test,
        loss=nn.functional.cross_entropy,
        metrics={"accuracy": accuracy},
        primary_metric="accuracy",
        optimizer=partial(adam, learning_rate=learning_rate),
        scheduler=scheduler_of(schedule),
    )
