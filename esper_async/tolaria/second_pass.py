"""Iterating a training loader twice, as a run and a resumed run do, and comparing."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from esper_async.kasmina.user_code import UserCodeError, batches_of, blaming
from esper_async.tolaria import global_random
from esper_async.tolaria.epoch_loader import EpochLoader, generators_of, same_batch
from esper_async.tolaria.loader_workers import has_position, keeps_workers, set_workers
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.rehearsal import problem_of, spent
from esper_async.tolaria.task import Task

_COMPARED_BATCHES = 50
_WHOLE_PASS = 100_000


def check_passes(task: Task, options: RunOptions, document: dict[str, Any]) -> list[Any]:
    """Iterate the training loader twice from the same random states; return its first batch.

    What is wrong is added to the document's `problems`; else it says under `resumable` whether a
    resumed run will see the same batches. The list that returns is empty when there is no batch.
    """
    problems: list[str] = document["problems"]
    wanted = 1 if has_position(task.train_loader) else _COMPARED_BATCHES
    passes = two_passes(task, "train_loader", wanted, needed=options.epochs, problems=problems)
    set_workers(task.train_loader, wanted=False)
    if passes is None:
        return []
    first, second = passes
    if not first:
        problems.append("Task.train_loader yields no batch; it must yield at least one each epoch")
    elif second is not None:
        document["resumable"], document["resumable_why"] = _resumable(task, first, second)
    return first[:1]


def two_passes(
    task: Task, name: str, wanted: int, *, needed: int, problems: list[str]
) -> tuple[list[Any], list[Any] | None] | None:
    """Return the first `wanted` batches of a loader's first pass and of its second.

    Both begin from the same random states. A pass that raises is None and a problem; so is a second
    one that is empty, if the run makes more than one: `needed` are made.
    """
    loader: Iterable[Any] = getattr(task, name)
    begin, generators = global_random.capture(), generators_of(loader)
    states = [generator.get_state() for generator in generators]

    def rewind() -> None:
        global_random.restore(begin)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)

    when = ""
    try:
        one = _open(loader, name)
        first = list(islice(batches_of(one, name), wanted))
        when = " the second time it was iterated"
        rewind()
        other = _open(loader, name)
        if other is one and not keeps_workers(loader):
            # it goes on where it was: only its end tells whether it begins anew
            for _ in islice(batches_of(one, name), _WHOLE_PASS):
                pass
            rewind()
            other = _open(loader, name)
        second = list(islice(batches_of(other, name), wanted))
    except UserCodeError as error:
        problems.append(str(problem_of(error, when)))
        return (first, None) if when else None
    if first and not second and needed > 1:
        problems.append(str(spent(name, needed)))
        return first, None
    return first, second


def _open(loader: Iterable[Any], name: str) -> Iterator[Any]:
    with blaming(name):
        return iter(loader)


def _resumable(task: Task, first: list[Any], second: list[Any]) -> tuple[str, str]:
    if has_position(task.train_loader):
        return "bitwise", "the training loader saves its own position"
    if keeps_workers(task.train_loader):
        return _with_kept_workers(task)
    if len(first) == len(second) and all(map(same_batch, first, second)):
        return "bitwise", "the training loader yields the same batches from the same random states"
    return (
        "approximate",
        "the training loader yields other batches the second time, from the same random states",
    )


def _with_kept_workers(task: Task) -> tuple[str, str]:
    """Say how a run resumes whose workers are not started anew for each epoch."""
    loader = EpochLoader(task.train_loader)
    try:
        repeats = loader.repeats(_COMPARED_BATCHES)
    finally:
        set_workers(task.train_loader, wanted=False)
    if repeats:
        return "bitwise", "new workers yield the same batches as those of the epochs before"
    return (
        "approximate",
        "new workers yield other batches than those of the epochs before, whose random numbers or "
        "counts go on from epoch to epoch; with persistent_workers=False each epoch has new ones",
    )
