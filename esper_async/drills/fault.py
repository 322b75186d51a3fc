"""What a fault is, and what several of them share."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from esper_async.drills.audit import gone
from esper_async.drills.stage import Stage, StageError

Overcome = Callable[[], bool]
STOPPED_S = 10.0
_ORPHANS_S = 1.0


def nothing() -> str:
    """Say that nothing stands in the way."""
    return ""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault against a stage on which the run of that id trains.

    `strike(stage, run)` does it and returns what tells that all is well again; `limit_s` is how
    long that may take from the strike (None: not judged). `hindrance()` says why it cannot be held
    on this machine, empty when it can.
    """

    name: str
    what: str
    strike: Callable[[Stage, str], Overcome]
    limit_s: float | None = None
    hindrance: Callable[[], str] = nothing


def trains_again(stage: Stage, run_id: str, old: int | None) -> Overcome:
    """Another training process than `old` has come further than the run was."""
    before = stage.journal_bytes(run_id)

    def overcome() -> bool:
        if stage.ended(run_id):
            return True
        return stage.child("train-") not in (None, old) and stage.journal_bytes(run_id) > before

    return overcome


def goes_on(stage: Stage, run_id: str) -> Overcome:
    """The run comes further than it was, and every service is ready."""
    before = stage.journal_bytes(run_id)
    return lambda: stage.ready() and (stage.ended(run_id) or stage.journal_bytes(run_id) > before)


def stop_in_time(stage: Stage) -> None:
    """Drain the supervisor; what takes longer than it may is noted as late.

    Raises StageError when it did not end with 0, or has left a process.
    """
    began = time.monotonic()
    code = stage.stop()
    took_s = time.monotonic() - began
    if code != 0:
        raise StageError(f"told to stop, it ended with {code} after {took_s:.1f} s")
    stage.stops.append(took_s)
    if took_s > stage.slack * STOPPED_S:
        stage.late.append(f"told to stop, it ended after {took_s:.1f} s, not {STOPPED_S:g} s")
    if left := gone(stage, _ORPHANS_S):
        raise StageError(f"stopped, and left behind: {left[0]}")
