"""How wide or how long a host must be trained to be as large, or cost as much, as another run."""

from collections.abc import Callable
from dataclasses import dataclass

from esper_async.kasmina.call import default_forward, first_batch_size
from esper_async.kasmina.compute import training_macs
from esper_async.tolaria.outcome import parameters_of
from esper_async.tolaria.task import Task, TaskError

MakeTask = Callable[[int], Task]
_STEPS_TO_A_VALID_WIDTH = 16


@dataclass(frozen=True, slots=True)
class Sized:
    """A width, with what a host of that width measures."""

    width: int
    measure: float


def macs_an_epoch(task: Task) -> float:
    """Return the multiply-accumulates of training the task's host for an epoch, without growth."""
    batches = list(task.train_loader)
    forward = task.forward or default_forward
    a_sample = training_macs(task.model, forward, batches[0], task.loss)
    return a_sample * sum(first_batch_size(batch) for batch in batches)


def parameters(task: Task) -> float:
    """Return how many values the task's host trains."""
    return float(parameters_of(task.model))


def nearest_width(
    make_task: MakeTask, measure: Callable[[Task], float], wanted: float, *, widest: int
) -> Sized:
    """Return the width whose measure is nearest to `wanted`, by bisection; the measure must rise.

    A width that the task refuses (heads that do not divide it, say) is passed over.

    Raises:
        TaskError: the task takes no width up to `widest`.
    """

    def at(width: int) -> Sized | None:
        for each in range(width, min(width + _STEPS_TO_A_VALID_WIDTH, widest) + 1):
            try:
                return Sized(each, measure(make_task(each)))
            except TaskError as error:
                refusal = error
        if width == 1:
            raise refusal
        return None

    low, high = at(1), widest
    assert low is not None
    below, above = low, low
    least = low.width
    while least < high:
        middle = (least + high + 1) // 2
        found = at(middle)
        if found is None or found.measure > wanted:
            above = above if found is None else found
            high = middle - 1
        else:
            below = found
            least = max(found.width, middle)
    candidates = (below, above)
    return min(candidates, key=lambda each: abs(each.measure - wanted))
