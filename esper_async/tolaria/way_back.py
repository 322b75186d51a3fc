"""Where an operator's rollback goes, or why there is no such place."""

from collections.abc import Mapping, Sequence
from typing import Any


def step_after(asked: int | None, step: int, history: Sequence[Mapping[str, Any]]) -> int:
    """Return the step before which a state must be from, to be of boundary `asked` or before it.

    Without `asked` that is `step`, where the run is. `history` has the run's boundaries with their
    steps.
    """
    if asked is None:
        return step
    steps = [entry["step"] for entry in history if entry["boundary"] <= asked]
    return (steps[-1] if steps else 0) + 1


def no_way_back(asked: int | None, present: int, kept: Sequence[int]) -> str:
    """Say why a rollback cannot be: what was asked for, and which boundaries have states.

    `asked` is the boundary to go back to, None for any before `present`, where the run is.
    """
    if asked is not None and asked > present:
        return f"no rollback to boundary {asked}: the run has only come to boundary {present}"
    goal = f"to boundary {asked}" if asked is not None else f"from boundary {present}"
    if not kept:
        return f"no rollback {goal}: there is no checkpoint yet"
    listed = " and ".join(str(boundary) for boundary in kept)
    return f"no rollback {goal}: no checkpoint is that old, the ones kept are of boundary {listed}"
