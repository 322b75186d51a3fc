"""SIGKILL at random instants, of the training process and of the supervisor by turns.

What must come through is each run as if nobody had killed it, and above all its field reports: one
for every command that was carried out, in the coach's store, once.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from esper_async.drills.audit import lost_by, trace_of
from esper_async.drills.drill import RUN, RUN_S, Progress, boundaries, ending, staged
from esper_async.drills.stage import Stage, StageError

TRAINING, SUPERVISOR = "training process", "supervisor"
_LIVES_S = 2.0
"""At the longest until the next kill."""
_TRAINS_FIRST = 0.75
"""Of so many lives that begins once a boundary was passed; the others end while processes start."""
_POLL_S = 0.01


@dataclass(slots=True)
class Killed:
    """What came of the kills; `reports` counts the field reports of all runs."""

    runs: int = 0
    reports: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "ok": not self.lost,
            "runs": self.runs,
            "reports": self.reports,
            "kills": dict(self.kills),
            "lost": self.lost,
        }


def kill_at_random(kills: int, tell: Progress, *, seed: int, mutation: str = "") -> Killed:
    """Kill so many times while runs follow one another; then let the last one end, and stop.

    Raises StageError when not even the undisturbed run comes to its end.
    """
    chance = random.Random(seed)  # noqa: S311 - instants that repeat, no secrets
    killed = Killed()
    with staged(tell, mutation=mutation) as (stage, reference):
        try:
            while not killed.lost and killed.kills.total() < kills:
                run_id = stage.submit(RUN)
                _kill_during(stage, run_id, kills, killed, chance, tell)
                stage.until(partial(stage.ended, run_id), "the end of a run", RUN_S)
                killed.runs += 1
                killed.lost += lost_by(stage, run_id, reference)
                killed.reports += 0 if killed.lost else len(trace_of(stage, run_id).reports)
        except StageError as error:
            killed.lost.append(str(error))
            return killed
        killed.lost += ending(stage).lost
    return killed


def _kill_during(
    stage: Stage, run_id: str, kills: int, killed: Killed, chance: random.Random, tell: Progress
) -> None:
    """Kill again and again until the run ends, or the last kill has been made."""
    while killed.kills.total() < kills:
        if chance.random() < _TRAINS_FIRST:
            stage.until(_went_on(stage, run_id), "a boundary", RUN_S)
        instant = time.monotonic() + chance.uniform(0.0, _LIVES_S)
        while time.monotonic() < instant and not stage.ended(run_id):
            time.sleep(_POLL_S)
        if stage.ended(run_id):
            return
        whom = SUPERVISOR if killed.kills.total() % 2 else TRAINING
        tell(f"SIGKILL {killed.kills.total() + 1}: the {whom}")
        if whom == SUPERVISOR:
            stage.kill()
            stage.start()
        elif pid := stage.child("train-"):
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        killed.kills[whom] += 1


def _went_on(stage: Stage, run_id: str) -> Callable[[], bool]:
    """Return whether the run has passed a boundary since, or has ended."""
    passed = boundaries(stage, run_id)
    return lambda: stage.ended(run_id) or boundaries(stage, run_id) > passed
