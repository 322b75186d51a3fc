"""Where a rollback goes, or why there is no such place."""

from collections.abc import Mapping, Sequence
from typing import Any

from esper_async.tolaria.checkpoint import CheckpointStore


def state_before(
    checkpoints: CheckpointStore,
    asked: int | None,
    step: int,
    history: Sequence[Mapping[str, Any]],
) -> dict[str, Any] | None:
    """Return the state of the newest checkpoint at boundary `asked` or before it; None if none.

    Without `asked` it is the newest from before `step`, where the run is. `history` has the run's
    boundaries with their steps.
    """
    if asked is not None:
        steps = [entry["step"] for entry in history if entry["boundary"] <= asked]
        step = (steps[-1] if steps else 0) + 1
    loaded = checkpoints.load_before(step)
    return None if loaded is None else loaded[1]


def no_way_back(asked: int | None, present: int, kept: Sequence[int]) -> str:
    """Say why a rollback cannot be: what was asked for, and which boundaries have checkpoints.

    `asked` is the boundary to go back to, None for any before `present`, where the run is.
    """
    if asked is not None and asked > present:
        return f"no rollback to boundary {asked}: the run has only come to boundary {present}"
    goal = f"to boundary {asked}" if asked is not None else f"from boundary {present}"
    if not kept:
        return f"no rollback {goal}: there is no checkpoint yet"
    listed = " and ".join(str(boundary) for boundary in kept)
    return f"no rollback {goal}: no checkpoint is that old, the ones kept are of boundary {listed}"
