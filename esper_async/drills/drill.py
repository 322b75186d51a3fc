"""One fault after the other, each in the middle of a run, and what came of it."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from esper_async.drills.audit import Trace, gone, lost_by, settled, trace_of
from esper_async.drills.fault import STOPPED_S, Fault
from esper_async.drills.faults import FAULTS
from esper_async.drills.stage import Stage, StageError

RUN: dict[str, Any] = {
    "run": {
        "name": "drill",
        "task": "esper_async.tasks.digits:make_task",
        "epochs": 24,
        "seed": 3,
        "threads": 1,
        "deterministic": True,
        "checkpoint_every": 1,
        "options": {"train_size": 480, "validation_size": 160, "test_size": 160},
    },
    "growth": {
        "policy": "heuristic",
        "dwell_steps": 20,
        "ramp_boundaries": 2,
        "window_boundaries": 2,
    },
}
"""A short run that grows: its weights must be the same whatever strikes it."""
OVERCOME_S, RUN_S = 180.0, 600.0
_STRIKE_AFTER = 3
"""Boundaries: by then there is a checkpoint, and seeds in training."""
Progress = Callable[[str], None]


class UnknownDrillError(ValueError):
    """There is no drill of that name."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a drill: how long recovery took, what was lost in it, what came too late.

    `stopped_s` is how long the longest drain in it took, if there was one, and `queued_s` how much
    of the recovery supervisor and training process stood waiting for a core of a busy machine.
    """

    name: str
    what: str
    recovery_s: float | None
    limit_s: float | None
    lost: tuple[str, ...]
    late: tuple[str, ...] = ()
    stopped_s: float | None = None
    queued_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Nothing was lost, and recovery kept its limits where there are any."""
        in_time = self.limit_s is None or (self.recovery_s or 0.0) <= self.limit_s
        return not self.lost and not self.late and in_time

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON values."""
        return {
            "name": self.name,
            "what": self.what,
            "recovery_s": None if self.recovery_s is None else round(self.recovery_s, 3),
            "limit_s": self.limit_s,
            "lost": list(self.lost),
            "late": list(self.late),
            "stopped_s": None if self.stopped_s is None else round(self.stopped_s, 3),
            "queued_s": round(self.queued_s, 3),
            "ok": self.ok,
        }


def hold(
    names: Sequence[str], tell: Progress, *, mutation: str = "", slack: float = 1.0
) -> Iterator[Outcome]:
    """Hold the named drills (all, without names), yielding each outcome, and last the ending's.

    What a drain or a start may take is stretched by `slack`.

    Raises UnknownDrillError before anything is started; StageError when not even the undisturbed
    run comes to its end.
    """
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        raise UnknownDrillError(f"there is no drill {unknown[0]!r}; known: {', '.join(FAULTS)}")
    with staged(tell, mutation=mutation, slack=slack) as (stage, reference):
        for name in names or FAULTS:
            if hindrance := FAULTS[name].hindrance():
                tell(f"{name}: not held: {hindrance}")
                continue
            tell(f"{name}: {FAULTS[name].what}")
            yield _strike(stage, FAULTS[name], reference)
        stage.start_if_stopped()
        tell("the end: everything is stopped")
        yield ending(stage)


@contextmanager
def staged(
    tell: Progress, *, mutation: str = "", slack: float = 1.0
) -> Iterator[tuple[Stage, Trace]]:
    """Start a supervisor and train once undisturbed; nothing of it is left afterwards."""
    with TemporaryDirectory(prefix="esper-drill-") as folder:
        stage = Stage(Path(folder), mutation=mutation, slack=slack)
        try:
            tell("a supervisor is started, and a run trained undisturbed")
            stage.start()
            run_id = stage.submit(RUN)
            stage.until(lambda: stage.ended(run_id), "the end of the undisturbed run", RUN_S)
            if stage.state_of(run_id)["state"] != "completed":
                raise StageError(f"the undisturbed run failed: {stage.state_of(run_id)['error']}")
            yield stage, trace_of(stage, run_id)
        finally:
            stage.clear()


def _strike(stage: Stage, fault: Fault, reference: Trace) -> Outcome:
    recovery_s: float | None = None
    queued_s = 0.0
    stage.late.clear()
    stage.stops.clear()
    try:
        stage.start_if_stopped()
        run_id = stage.submit(RUN)
        stage.until(lambda: boundaries(stage, run_id) >= _STRIKE_AFTER, "a run", RUN_S)
        before = stage.queued()
        stage.struck_at = time.monotonic()
        overcome = fault.strike(stage, run_id)
        stage.until(overcome, f"recovery from {fault.name}", OVERCOME_S)
        recovery_s = time.monotonic() - stage.struck_at
        queued_s = sum(waited - before.get(pid, 0.0) for pid, waited in stage.queued().items())
        stage.until(lambda: stage.ended(run_id), "the end of the run", RUN_S)
        lost = lost_by(stage, run_id, reference)
    except StageError as error:
        lost = [str(error)]
    return Outcome(
        fault.name,
        fault.what,
        recovery_s,
        fault.limit_s,
        tuple(lost),
        tuple(stage.late),
        max(stage.stops, default=None),
        queued_s,
    )


def boundaries(stage: Stage, run_id: str) -> int:
    """Return how many boundaries a run's journal tells of."""
    try:
        text = (stage.run_folder(run_id) / "journal.jsonl").read_text(errors="replace")
    except OSError:
        return 0
    return text.count('"kind": "boundary"') + text.count('"kind":"boundary"')


def ending(stage: Stage) -> Outcome:
    """Stop the supervisor; its exit code, its spools and its processes tell whether all is well."""
    lost = [f"still in a spool: {each}" for each in settled(stage, 20.0)]
    began = time.monotonic()
    code = stage.stop()
    took_s = time.monotonic() - began
    if code != 0:
        lost.append(f"the supervisor ended with {code}")
    lost += [f"left behind: {each}" for each in gone(stage, 5.0)]
    return Outcome("the end", "SIGTERM, after all of that", took_s, STOPPED_S, tuple(lost))
