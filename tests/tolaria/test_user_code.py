"""What the user's own code raises is told with its name and the step, and its cause is kept."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from esper_async import grow
from esper_async.kasmina.user_code import UserCodeError, batches_of, blaming
from esper_async.tolaria.grow import GrowResult
from esper_async.tolaria.task import Task
from tests.growth_hosts import make_host
from tests.tolaria.growth_tasks import listed


def trained(task: Task, **changes: Any) -> GrowResult:
    settings: dict[str, Any] = {"epochs": 2, "policy": "static", "state_dir": None, "threads": 1}
    return grow(task, progress=False, **{**settings, **changes})


class Later:
    """Does as told `calls` times, then divides by zero."""

    def __init__(self, inner: Callable[..., Any], calls: int) -> None:
        self.inner = inner
        self.left = calls

    def __call__(self, *arguments: Any) -> Any:
        self.left -= 1
        return self.inner(*arguments) if self.left >= 0 else 1 / 0


class LaterLoader:
    """Yields its batches `passes` times, then divides by zero at its second batch."""

    def __init__(self, batches: Any, passes: int) -> None:
        self.batches = batches
        self.left = passes

    def __iter__(self) -> Iterator[Any]:
        self.left -= 1
        yield self.batches[0]
        yield self.batches[1] if self.left >= 0 else 1 / 0
        yield from self.batches[2:]


class LaterModel(nn.Module):
    """A model that divides by zero when it is trained after so many calls."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.inner = make_host("mlp")
        self.later = Later(self.inner.forward, calls)

    def forward(self, source: Tensor) -> Tensor:
        output: Tensor = self.later(source)
        return output


def host_and_target(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    return model(batch[0]), batch[1]


def zeros(output: Tensor, target: Tensor) -> Tensor:
    return torch.zeros(len(target))


CASES: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "a metric": (
        lambda: {"metrics": {"hits": Later(zeros, 4)}, "primary_metric": None},
        r"Task\.metrics\['hits'\]",
    ),
    "the loss": (lambda: {"loss": Later(F.cross_entropy, 10)}, r"Task\.loss"),
    "the model": (lambda: {"model": LaterModel(10)}, r"Task\.model\.forward"),
    "the forward": (lambda: {"forward": Later(host_and_target, 10)}, r"Task\.forward"),
    "the train loader": (
        lambda: {"train_loader": LaterLoader(listed().train_loader, 1)},
        r"Task\.train_loader",
    ),
    "the validation loader": (
        lambda: {"validation_loader": LaterLoader(listed().validation_loader, 1)},
        r"Task\.validation_loader",
    ),
    "the test loader": (
        lambda: {"test_loader": LaterLoader(listed().test_loader, 0)},
        r"Task\.test_loader",
    ),
    "the schedule": (
        lambda: {"scheduler": lambda optimizer: LambdaLR(optimizer, Later(lambda _: 1.0, 2))},
        r"Task\.scheduler\.step",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_raised_during_training_is_named_with_the_step_and_epoch(case: str) -> None:
    changes, named = CASES[case]
    told = rf"^{named} raised ZeroDivisionError: division by zero \(after \d+ steps, \d whole epoch"
    with pytest.raises(UserCodeError, match=told) as caught:
        trained(listed(**changes()))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_the_step_is_the_last_that_was_taken() -> None:
    with pytest.raises(UserCodeError, match=r"after 5 steps, 1 whole epochs"):
        trained(listed(train_loader=LaterLoader(listed().train_loader, 1)))


def test_a_metric_that_gives_no_number_is_told_what_it_gave() -> None:
    task = listed(metrics={"label": lambda *_: "good"}, primary_metric=None)
    with pytest.raises((UserCodeError, ValueError), match=r"'label'\].*a str, which is no number"):
        trained(task)


def test_want_of_memory_is_nobodys_doing() -> None:
    def hungry(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        trained(listed(loss=hungry))


def test_who_was_blamed_first_stays_blamed() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("gone")

    with pytest.raises(UserCodeError, match=r"^loader raised KeyError"), blaming("outer"):
        list(batches_of(broken(), "loader"))


def test_an_interrupt_stays_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), blaming("loss"):
        raise KeyboardInterrupt
