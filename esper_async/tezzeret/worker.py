"""The forge's worker process: torch imported once, then proofs, one at a time, into the library."""

import json
import resource
import sqlite3
from pathlib import Path

import torch

from esper_async.kasmina.kernels import (
    KernelRefusedError,
    SettingRefusedError,
    blueprints_for,
)
from esper_async.kasmina.proof import certificate_key, prove
from esper_async.runtime.breaker import BreakerOpen
from esper_async.runtime.child_main import ChildLink
from esper_async.tezzeret.job import JobKind, Work
from esper_async.tezzeret.worker_loop import Outcome, serve
from esper_async.urza import Library


def work(link: ChildLink, *, library: str, memory_bytes: int) -> int:
    """Serve the forge until it says stop; the target of its child.

    The address space may grow by `memory_bytes` beyond what torch itself has taken.
    """
    torch.set_num_threads(1)
    _limit_memory(memory_bytes)
    shelves = Library(Path(library), actor="tezzeret")
    try:
        return serve(link, lambda job: perform(job, shelves))
    finally:
        shelves.close()


def perform(job: Work, library: Library) -> Outcome:
    """Do one job; a certificate that the library already has is not proved again."""
    if job.kind is JobKind.SURVEY:
        # other tiers are proved for the runs that allow them, as those ask
        offered = blueprints_for(job.interface)
        found = [blueprint.id for blueprint in offered if blueprint.tier == "production"]
        return {"outcome": "done", "key": "", "found": found}
    try:
        key = certificate_key(
            job.blueprint, job.interface, parameters=job.settings, device=job.device
        )
        if library.certificate(key) is not None:
            return {"outcome": "done", "key": key, "proved": False}
        certificate = prove(
            job.blueprint, job.interface, parameters=job.settings, device=job.device
        )
        library.put_certificate(
            key,
            json.loads(certificate.to_json()),
            blueprint=job.blueprint,
            interface=job.interface.key,
        )
    except (KernelRefusedError, SettingRefusedError) as refusal:
        return {"outcome": "refused", "error": str(refusal)}
    except (OSError, sqlite3.Error, BreakerOpen) as error:
        return {"outcome": "unstored", "error": f"{type(error).__name__}: {error}"}
    except MemoryError:
        return {"outcome": "failed", "error": "the proof needed more memory than it may have"}
    return {"outcome": "done", "key": key, "proved": True}


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
