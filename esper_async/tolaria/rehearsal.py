"""The rehearsal: what a run reads late is tried on one batch before anything is trained.

A metric that raises would else end a run at its first boundary, and an empty test split after its
last epoch. The run does not notice: random states, those of a DataLoader's own generators
included, buffers and modes are as they were before.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from esper_async.kasmina.call import (
    BatchError,
    Call,
    cloned_buffers,
    default_forward,
    detached_parameters,
)
from esper_async.kasmina.evaluation import (
    EmptyLoaderError,
    Metric,
    SampleLoss,
    Variant,
    evaluate,
)
from esper_async.kasmina.modes import evaluation_mode
from esper_async.kasmina.user_code import UserCodeError, batches_of, blaming
from esper_async.tolaria import global_random
from esper_async.tolaria.epoch_loader import BEGINS_ANEW, generators_of
from esper_async.tolaria.loader_workers import has_workers, set_workers
from esper_async.tolaria.task import Task, TaskError

Problem = TaskError | BatchError | EmptyLoaderError
_RIGHT = {
    "metrics": "a metric takes (output, target) and returns numbers: one a sample (N,), or one",
    "loss": "a loss takes (output, target) and returns a scalar tensor",
    "model": "the model is given the batch's input; a task whose batches are not (input, target) "
    "needs a forward(model, batch)",
    "forward": "it takes (model, batch) and returns (output, target)",
    "train_loader": f"it should yield batches each time it is iterated: {BEGINS_ANEW}",
    "validation_loader": f"it should yield batches each time it is iterated: {BEGINS_ANEW}",
    "test_loader": "it should yield at least one batch",
}


def rehearse(task: Task, device: torch.device, *, epochs: int, passes: int) -> Iterable[Any] | None:
    """Try the first validation and the first test batch; return the test split, to be read later.

    What is returned still begins with its first batch, also where the loader can be iterated only
    once. `passes` is how often the run iterates the validation loader.

    Raises:
        TaskError, BatchError, EmptyLoaderError: the run would fail; every problem is told.
    """
    problems: list[Problem] = [*spent_loaders(task, epochs=epochs, passes=passes)]
    test: Iterable[Any] | None = None
    known: set[str] = set()
    with _unnoticed(task):
        # An iterator that is its own loader may not begin anew: the first boundary is to have all.
        if not isinstance(task.validation_loader, Iterator):
            problems += _score(task, "validation", device, known)[0]
        if task.test_loader is not None:
            found, test = _score(task, "test", device, known)
            problems += found
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise TaskError("\n".join(map(str, problems))) from problems[0]
    return test


def spent_loaders(task: Task, *, epochs: int, passes: int) -> list[TaskError]:
    """Return a problem for each loader that is known to be used up before the run has ended."""
    needed = {"train_loader": epochs, "validation_loader": passes}
    return [
        spent(name, times)
        for name, times in needed.items()
        if times > 1 and _is_spent_after_one_pass(getattr(task, name))
    ]


def spent(name: str, passes: int) -> TaskError:
    """Return the problem of a loader that yields nothing the second time."""
    return TaskError(
        f"Task.{name} yields nothing the second time it is iterated, and this run iterates it "
        f"{passes} times (a generator can be iterated only once: {BEGINS_ANEW})"
    )


def _is_spent_after_one_pass(loader: Iterable[Any]) -> bool:
    """Whether a loader is one of Python's own iterators: generators, `zip`, `map` and the like."""
    return isinstance(loader, Iterator) and type(loader).__module__ in ("builtins", "itertools")


def _score(
    task: Task, split: str, device: torch.device, known: set[str]
) -> tuple[list[Problem], Iterable[Any]]:
    loader: Iterable[Any] = getattr(task, f"{split}_loader")
    try:
        batches, again = first_batch(loader, f"{split}_loader")
    except UserCodeError as error:
        return [problem_of(error)], loader
    return score_batches(task, split, batches, device=device, known=known), again


def first_batch(loader: Iterable[Any], what: str) -> tuple[list[Any], Iterable[Any]]:
    """Return a list of the first batch, empty if there is none, and a loader that has it still.

    Raises:
        UserCodeError: the loader, called `what`, raised.
    """
    with blaming(what):
        iterator = iter(loader)
    batches = list(islice(batches_of(iterator, what), 1))
    return batches, chain(batches, iterator) if iterator is loader else loader


def score_batches(
    task: Task,
    split: str,
    batches: Iterable[Any],
    *,
    device: torch.device | None = None,
    known: set[str] | None = None,
) -> list[Problem]:
    """Evaluate the first batches of a split as a boundary would; return what is wrong.

    What the fields named in `known` raise is left out: it has been told. Those that fail now are
    added to it.
    """
    known = set() if known is None else known
    call = Call(task.model, task.forward or default_forward)
    tensors = {**detached_parameters(task.model), **cloned_buffers(task.model)}
    loss = SampleLoss(task.loss)
    pairs: list[tuple[Tensor, Tensor]] = []
    problems: list[Problem] = []

    def host(batch: Any) -> tuple[Tensor, Tensor]:
        pairs.append(call.with_tensors(tensors, batch))
        return pairs[-1]

    def attempt(variant: Variant, metrics: Mapping[str, Metric]) -> bool:
        variants = {"host": variant}
        try:
            evaluate(variants, batches, loss, metrics=metrics, device=device, split=split)
        except UserCodeError as error:
            if error.what not in known:
                problems.append(problem_of(error, f" on the first {split} batch"))
            known.add(error.what)
            return False
        except (BatchError, EmptyLoaderError) as error:
            problems.append(problem_of(error))
            return False
        return True

    with evaluation_mode([task.model]):
        if attempt(host, {}):
            for name, metric in task.metrics.items():
                attempt(lambda _: pairs[0], {name: metric})
    return problems


def problem_of(error: UserCodeError | BatchError | EmptyLoaderError, where: str = "") -> Problem:
    """Return an error of a task's field as a problem, with what would be right."""
    if not isinstance(error, UserCodeError):
        problem: Problem = type(error)(f"Task.{error}")
    else:
        right = _RIGHT.get(error.what.partition("[")[0].partition(".")[0])
        problem = TaskError(f"Task.{error}{where}" + (f"; {right}" if right else ""))
    problem.__cause__ = error.__cause__
    return problem


@contextmanager
def _unnoticed(task: Task) -> Iterator[None]:
    """Leave every random state and mode as it was, and no worker that was not there."""
    loaders = [task.validation_loader, task.test_loader]
    states = [(each, each.get_state()) for loader in loaders for each in generators_of(loader)]
    workers = [has_workers(loader) for loader in loaders]
    with global_random.preserved(task.model):
        try:
            yield
        finally:
            for loader, had in zip(loaders, workers, strict=True):
                set_workers(loader, wanted=had)
            for generator, state in states:
                generator.set_state(state)
