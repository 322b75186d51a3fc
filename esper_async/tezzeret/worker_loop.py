"""The worker's side of the forge: take a job off the link, perform it, report. Torch-free."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from esper_async.runtime.child_main import ChildLink
from esper_async.tezzeret.job import Work

_POLL_S = 0.02

Outcome = Mapping[str, Any]
"""`outcome`: "done" (with `key`, `found`), "refused", "failed" or "unstored" (with `error`)."""

Perform = Callable[[Work], Outcome]


def serve(link: ChildLink, perform: Perform) -> int:
    """Perform jobs one at a time until asked to stop; the exit code.

    `perform` names every failure in its outcome; what it raises ends the worker, which the forge
    counts as a failed attempt.
    """
    done = 0
    link.send({"type": "warm"})
    while not link.stop_requested:
        for request in link.requests():
            if request != "work":
                continue
            work = Work.from_json(str(request.fields["work"]))
            link.send({"type": "began", "job": work.id})
            started = time.monotonic()
            outcome = perform(work)
            elapsed_ms = (time.monotonic() - started) * 1000.0
            done += 1
            link.send({"type": "ended", "job": work.id, "elapsed_ms": elapsed_ms, **outcome})
            link.heartbeat(done)
        link.wait_for_stop(_POLL_S)
    return 0
