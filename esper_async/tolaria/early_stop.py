"""Early stopping: ending a run whose primary metric has not become better for a while."""

from collections.abc import Mapping, Sequence
from typing import Any

from esper_async.tolaria.task import Task


def boundaries_since_best(
    history: Sequence[Mapping[str, Any]], key: str, *, larger_is_better: bool
) -> int:
    """Return how many boundaries ago the metric `key` was at its best; ties are the older one's.

    What is not a number at a boundary (absent, NaN) is never the best one.
    """
    best, best_at = None, -1
    for number, entry in enumerate(history):
        value = entry.get(key)
        if value is None or value != value:
            continue
        if best is None or (value > best if larger_is_better else value < best):
            best, best_at = value, number
    return len(history) - 1 - best_at


def stall(history: Sequence[Mapping[str, Any]], task: Task, *, patience: int) -> str | None:
    """Say that a task's primary metric has not become better for `patience` boundaries, if so.

    A patience of 0 waits for ever.
    """
    key = task.primary_key
    if patience == 0:
        return None
    since = boundaries_since_best(history, key, larger_is_better=task.larger_is_better)
    if since < patience:
        return None
    return f"{key} was at its best {since} boundaries ago (run.patience = {patience})"
