"""`Task`: everything Esper needs to know about somebody's training problem."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from esper_async.kasmina.compiling.choice import CompileError
from esper_async.kasmina.compiling.region import Compiler
from esper_async.kasmina.compiling.taken_over import take_over
from esper_async.kasmina.seed_optimizer import needs_closure, unrated

Loss = Callable[..., Tensor]
Metric = Callable[[Tensor, Tensor], Tensor]
Forward = Callable[[nn.Module, Any], tuple[Tensor, Tensor]]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[..., LRScheduler]
ScheduleEvery = Literal["boundary", "step"]


class TaskError(ValueError):
    """The task cannot be trained as it is; the message says what is wrong and the way out."""


@dataclass(kw_only=True)
class Task:
    """A model, its data and its loss, as a run or `grow` takes them.

    Nothing in the model needs to know about Esper.

    Args:
        model: the host; any module.
        train_loader: iterable of batches, iterated once an epoch.
        validation_loader: the decision split: gates, policies and schedules read it.
        loss: `loss(output, target)`, a scalar; if it takes `reduction="none"`, measurements are
            paired by sample, else by batch.
        metrics: name to `metric(output, target)`, a value a sample (N,) or one a batch.
        primary_metric: which of `metrics` stands first in reports and in the comparison; the loss
            if None. Gates and policies judge by the loss, whatever it is.
        maximize: whether the primary metric is better when larger.
        optimizer: parameters to optimizer; AdamW at 3e-3 if None.
        scheduler: optimizer to scheduler; cosine to zero if None. A factory with a parameter
            `total` is told how often the run will step its schedule. One that waits for a plateau
            is told the validation loss, or with mode="max" the primary metric.
        scheduler_every: whether it is stepped at each "boundary" or after each optimizer "step".
        sites: site name to submodule path; found by tracing a batch if None.
        test_loader: read once, at the end.
        name: how the task is called in reports; a `grow` that is given no name takes it.
        forward: `(model, batch) -> (output, target)` for batches that are not (input, target).
        clip_norm: largest gradient norm of the host; None does not clip.
        compiled: what `torch.compile` had wrapped in the model, by path; found by looking. The
            wraps are taken off, and the same parts are compiled as they were while the model is
            trained.
        teacher: a trained network with logits like the host's; it is frozen, and seeds learn in
            shadow from its soft targets, too. Nothing else has a part of it.
    """

    model: nn.Module
    train_loader: Iterable[Any]
    validation_loader: Iterable[Any]
    loss: Loss
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    primary_metric: str | None = None
    maximize: bool = True
    optimizer: OptimizerFactory | None = None
    scheduler: SchedulerFactory | None = None
    scheduler_every: ScheduleEvery = "boundary"
    sites: Mapping[str, str] | None = None
    test_loader: Iterable[Any] | None = None
    name: str | None = None
    forward: Forward | None = None
    clip_norm: float | None = None
    compiled: Mapping[str, Compiler] = field(default_factory=dict)
    teacher: nn.Module | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TaskError(f"Task.model must be a torch.nn.Module, not {type(self.model)!r}")
        try:
            self.model, found = take_over(self.model)
        except CompileError as error:
            raise TaskError(f"Task.model: {error}") from error
        self.compiled = {**self.compiled, **found}
        if not isinstance(self.teacher, nn.Module | None):
            raise TaskError(f"Task.teacher must be a torch.nn.Module, not {type(self.teacher)!r}")
        if not any(True for _ in self.model.parameters()):
            raise TaskError("Task.model has no parameters, so there is nothing to train")
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise TaskError(
                "Task.model is frozen: none of its parameters has requires_grad, so there is "
                "nothing to train; leave some of them trainable"
            )
        for split in ("train_loader", "validation_loader"):
            if not isinstance(getattr(self, split), Iterable):
                raise TaskError(f"Task.{split} must be iterable, not {getattr(self, split)!r}")
        if self.scheduler_every not in get_args(ScheduleEvery):
            raise TaskError(
                f'Task.scheduler_every is "boundary" or "step", not {self.scheduler_every!r}'
            )
        if self.primary_metric is not None and self.primary_metric not in self.metrics:
            known = ", ".join(sorted(self.metrics)) or "none given"
            raise TaskError(
                f"Task.primary_metric {self.primary_metric!r} is not in Task.metrics ({known})"
            )

    @property
    def primary_key(self) -> str:
        """The primary metric's key among a boundary's metrics."""
        return f"validation_{self.primary_metric or 'loss'}"

    @property
    def larger_is_better(self) -> bool:
        """The direction of the primary metric; a loss is better when smaller."""
        return self.maximize if self.primary_metric is not None else False

    def description(self) -> dict[str, Any]:
        """Return what a run's first record says of its task."""
        return {
            "task": self.name,
            "primary_metric": self.primary_key,
            "maximize": self.larger_is_better,
        }

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Build the host's optimizer over `parameters`.

        Raises:
            TaskError: the factory raised, or returned something else, or what cannot be stepped
                without a closure.
        """
        if self.optimizer is None:
            return torch.optim.AdamW(parameters, lr=3e-3)
        right = "it should take the parameters and return a torch.optim.Optimizer over them"
        with told_as("optimizer", right):
            made = self.optimizer(parameters)
        if not hasattr(made, "param_groups"):
            raise TaskError(f"Task.optimizer returned {made!r}; {right}")
        own = {id(parameter) for parameter in self.model.parameters()}
        if not any(id(each) in own for group in made.param_groups for each in group["params"]):
            raise TaskError(
                f"Task.optimizer returned one that trains no parameter of Task.model; {right}"
            )
        if unrated(made):
            raise TaskError(f"Task.optimizer returned {unrated(made)}")
        if needs_closure(made):
            raise TaskError(
                f"Task.optimizer returned {type(made).__name__}, whose step needs a closure, and a "
                f"run steps without one; take another, or use Grower in a loop of your own"
            )
        return made


@contextmanager
def told_as(field: str, right: str) -> Iterator[None]:
    """Turn what a factory of the task raises into a `TaskError` that says what is `right`."""
    try:
        yield
    except Exception as error:
        raise TaskError(f"Task.{field} raised {type(error).__name__}: {error}; {right}") from error
