"""A worker process of the forge: torch imported once, then one job after the other."""

import resource
import shutil
import sqlite3
from pathlib import Path

import torch

from esper_async.kasmina.kernels import (
    KernelRefusedError,
    SettingRefusedError,
    blueprints_for,
)
from esper_async.leyline import load_signer
from esper_async.runtime.breaker import BreakerOpen
from esper_async.runtime.child_main import ChildLink
from esper_async.runtime.logging import configure_logging
from esper_async.tezzeret.compilation import certify_into, compile_into
from esper_async.tezzeret.job import JobKind, Work
from esper_async.tezzeret.worker_loop import Outcome, serve
from esper_async.urza import Library


def work(
    link: ChildLink,
    *,
    library: str,
    key: str,
    scratch: str,
    memory_bytes: int,
    output_bytes: int,
) -> int:
    """Serve the forge until it says stop; the target of its child.

    The address space may grow by `memory_bytes` beyond what torch itself has taken. `key` is the
    file of the installation's key, which seals what is compiled in `scratch`.
    """
    configure_logging(json=True)  # standard error is the worker's log
    torch.set_num_threads(1)
    _limit_memory(memory_bytes)
    resource.setrlimit(resource.RLIMIT_FSIZE, (output_bytes, output_bytes))
    place = Path(scratch)
    _empty(place)
    signer = load_signer(Path(key))
    shelves = Library(Path(library), actor="tezzeret", signer=signer)
    try:
        return serve(link, lambda job: perform(job, shelves, place))
    finally:
        shelves.close()


def perform(job: Work, library: Library, scratch: Path | None = None) -> Outcome:
    """Do one job; what the library already has is not made again.

    Only a COMPILE needs `scratch`, and a library with the key that seals.
    """
    if job.kind is JobKind.COMPILE:
        assert scratch is not None
        return compile_into(job, library, scratch)
    if job.kind is JobKind.SURVEY:
        # other tiers are proved for the runs that allow them, as those ask
        offered = blueprints_for(job.interface)
        found = [blueprint.id for blueprint in offered if blueprint.tier == "production"]
        return {"outcome": "done", "key": "", "found": found}
    try:
        key, proved = certify_into(job, library)
    except (KernelRefusedError, SettingRefusedError) as refusal:
        return {"outcome": "refused", "error": str(refusal)}
    except (OSError, sqlite3.Error, BreakerOpen) as error:
        return {"outcome": "unstored", "error": f"{type(error).__name__}: {error}"}
    except MemoryError:
        return {"outcome": "failed", "error": "the proof needed more memory than it may have"}
    return {"outcome": "done", "key": key, "proved": proved}


def _empty(scratch: Path) -> None:
    """Remove what a worker that was killed has left."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)


def _limit_memory(memory_bytes: int) -> None:
    """Cap the address space at what is taken now plus `memory_bytes`; only where /proc tells."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return
    pages = int(statm.read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
