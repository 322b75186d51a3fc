"""Workers of a forge that is put to the test: one without torch, one that fears no blueprint."""

import errno
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from esper_async.kasmina.compiling.cxx import cxx_compiler
from esper_async.kasmina.compiling.kernel_artifact import record_key
from esper_async.kasmina.compiling.kernel_record import Compilation, Strategy
from esper_async.runtime.breaker import BreakerOpen
from esper_async.runtime.child_main import ChildLink
from esper_async.tezzeret.job import JobKind, Work
from esper_async.tezzeret.worker_loop import Outcome, serve
from esper_async.urza import Library

ENDLESS = "endless"
_JOB_S = 0.03


def quick(link: ChildLink, *, library: str, **_: Any) -> int:
    """Do every job in a moment, without torch, and note what was begun by whom, and what was done.

    While there is a file `full` in the state directory, nothing can be stored.
    """
    home = Path(library).parent
    _note(home, "workers", str(os.getpid()))
    shelves = Library(Path(library), actor="bench")

    def perform(work: Work) -> Outcome:
        if work.kind is JobKind.SURVEY:
            return {"outcome": "done", "key": "", "found": []}
        try:
            return _made(work, shelves, home)
        except (OSError, sqlite3.Error, BreakerOpen) as error:
            return {"outcome": "unstored", "error": str(error)}

    return serve(link, perform)


def _made(work: Work, shelves: Library, home: Path) -> Outcome:
    key = f"{work.blueprint}-{work.interface.key}"
    wanted = work.compile
    if wanted is not None and cxx_compiler() is None and wanted.strategy is not Strategy.EMERGENCY:
        return {"outcome": "failed", "error": "there is no compiler"}
    if wanted is None and shelves.certificate(key) is not None:
        return {"outcome": "done", "key": key}
    time.sleep(_JOB_S)
    if (home / "full").exists():
        _note(home, "refused", work.blueprint)
        raise OSError(errno.ENOSPC, "No space left on device")
    if wanted is None:
        shelves.put_certificate(
            key, _CERTIFICATE, blueprint=work.blueprint, interface=work.interface.key
        )
    else:
        record = Compilation(
            key=key,
            certificate_key=key,
            blueprint_id=work.blueprint,
            interface=work.interface.key,
            settings={},
            batch=wanted.batch,
            threads=wanted.threads,
            strategy=wanted.strategy,
            kept=False,
            reason=wanted.why or "not faster",
            torch_version="",
        )
        shelves.put(record_key(key), record.to_json().encode(), kind="compilation")
    _note(home, "done", f"{work.kind} {work.blueprint}")
    return {"outcome": "done", "key": key}


_CERTIFICATE = {
    "passed": True,
    "failures": [],
    "parameter_count": 1,
    "forward_ms": None,
    "training_ms": None,
    "forward_flops": None,
    "saved_bytes": None,
}


def fearless(link: ChildLink, *, library: str, memory_bytes: int, **limits: Any) -> int:
    """Prove quarantined blueprints, too, as a drill does: the limits alone hold them.

    The blueprint `ENDLESS`, which there is not, never comes to an end.
    """
    from esper_async.kasmina.proof import prove
    from esper_async.study.bench.benchmark import replaced
    from esper_async.tezzeret import worker

    _note(Path(library).parent, "workers", str(os.getpid()))

    def dared(*given: Any, **named: Any) -> Any:
        return prove(*given, **named, drill=True)

    whole = worker.perform

    def perform(job: Work, *given: Any) -> Outcome:
        while job.blueprint == ENDLESS:
            pass
        return whole(job, *given)

    with (
        replaced("esper_async.tezzeret.compilation.prove", dared),
        replaced("esper_async.tezzeret.worker.perform", perform),
    ):
        return worker.work(link, library=library, memory_bytes=memory_bytes, **limits)


def trusting(link: ChildLink, *, library: str, **_: Any) -> int:
    """Certify whatever it is asked for, unseen."""
    shelves = Library(Path(library), actor="bench")
    return serve(link, lambda work: _made(work, shelves, Path(library).parent))


def _note(home: Path, name: str, line: str) -> None:
    with (home / f"{name}.txt").open("a") as file:
        file.write(f"{line}\n")
