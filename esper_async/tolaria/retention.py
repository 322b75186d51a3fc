"""How long an ended run keeps what it wrote: its checkpoints for a while, the rest as configured.

An ended run is never trained again, so that its checkpoints are of use to a person alone; the grown
model, the journal and the result are other files. Nothing goes that somebody still waits for: a run
with messages in its spool keeps its folder.
"""

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

import structlog

from esper_async.oona.errors import SpoolBusy
from esper_async.oona.spool import Spool
from esper_async.tolaria.runs import Run, RunStore

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Retention:
    """Seconds after its end that a run keeps its checkpoints, and its folder; 0 is for ever."""

    checkpoints_s: float = 0.0
    runs_s: float = 0.0


@dataclass(slots=True)
class Swept:
    """The runs that lost their checkpoints, and those that are gone."""

    without_checkpoints: list[Run] = field(default_factory=list)
    gone: list[Run] = field(default_factory=list)


def sweep(store: RunStore, runs: Sequence[Run], retention: Retention, now: float) -> Swept:
    """Remove from the disk what ended runs have kept long enough, at a Unix time.

    What cannot be removed stays, is logged, and is tried again at the next sweep. The store still
    knows the runs that are gone: `RunStore.forget`.
    """
    swept = Swept()
    store.clear_removed()
    for run in runs:
        try:
            if _is_over(run, retention.runs_s, now) and not _has_something_to_say(run):
                store.remove(run)
                swept.gone.append(run)
            elif _is_over(run, retention.checkpoints_s, now) and _drop_checkpoints(run):
                swept.without_checkpoints.append(run)
        except (OSError, sqlite3.Error) as error:
            log.warning("ended_run_not_swept", run=run.id, error=str(error))
    return swept


def _is_over(run: Run, kept_s: float, now: float) -> bool:
    return run.ended and kept_s > 0 and now - run.ended_at() >= kept_s


def _has_something_to_say(run: Run) -> bool:
    """Whether messages wait in its spool, or a process still has it."""
    try:
        with closing(Spool(run.folder / "spool", patience_s=0.0)) as spool:
            return len(spool) > 0
    except SpoolBusy:
        return True


def _drop_checkpoints(run: Run) -> bool:
    folder = run.folder / "checkpoints"
    if not folder.is_dir():
        return False
    shutil.rmtree(folder)
    return True
