"""What a worker makes for the library: certificates, and compiled kernels with their records."""

import sqlite3
import tempfile
from functools import partial
from pathlib import Path

import torch

from esper_async.kasmina.compiling.cxx import cxx_compiler
from esper_async.kasmina.compiling.kernel_artifact import (
    COMPILATION,
    KERNEL,
    artifact_key,
    packed,
    record_key,
)
from esper_async.kasmina.compiling.kernel_compiler import (
    CompilerFailedError,
    compilation_key,
    compile_kernel,
)
from esper_async.kasmina.compiling.kernel_record import Compilation
from esper_async.kasmina.kernels import KernelRefusedError, SettingRefusedError
from esper_async.kasmina.legal import store_certificate
from esper_async.kasmina.proof import certificate_key, prove
from esper_async.runtime.breaker import BreakerOpen
from esper_async.tezzeret.job import Work
from esper_async.tezzeret.worker_loop import Outcome
from esper_async.urza import Library


def certify_into(job: Work, library: Library) -> tuple[str, bool]:
    """Return the key of a blueprint's certificate, and whether it was proved now.

    Raises KernelRefusedError, SettingRefusedError, MemoryError, OSError, sqlite3.Error,
    BreakerOpen.
    """
    key = certificate_key(job.blueprint, job.interface, parameters=job.settings, device=job.device)
    if library.certificate(key) is not None:
        return key, False
    certificate = prove(job.blueprint, job.interface, parameters=job.settings, device=job.device)
    store_certificate(library, certificate, job.interface.key)
    return key, True


def compile_into(job: Work, library: Library, scratch: Path) -> Outcome:
    """Compile a certified kernel; keep its record, and what was compiled where it is faster."""
    assert job.compile is not None
    try:
        certificate, _ = certify_into(job, library)
        record = library.certificate(certificate)
        if record is None or not record["passed"]:
            return {"outcome": "refused", "error": f"{job.blueprint} is not certified there"}
        return _compiled(job, library, scratch)
    except (KernelRefusedError, SettingRefusedError) as refusal:
        return {"outcome": "refused", "error": str(refusal)}
    except CompilerFailedError as failure:
        lost = cxx_compiler() is None
        return {"outcome": "unstored" if lost else "failed", "error": str(failure)}
    except MemoryError:
        return {"outcome": "failed", "error": "compiling needed more memory than it may have"}
    except (OSError, sqlite3.Error, BreakerOpen) as error:
        return {"outcome": "unstored", "error": f"{type(error).__name__}: {error}"}
    finally:
        torch.set_num_threads(1)


def _compiled(job: Work, library: Library, scratch: Path) -> Outcome:
    wanted = job.compile
    assert wanted is not None
    key = compilation_key(
        job.blueprint,
        job.interface,
        parameters=job.settings,
        batch=wanted.batch,
        threads=wanted.threads,
    )
    if _has(library, key):
        return {"outcome": "done", "key": key, "compiled": False}
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        found = compile_kernel(
            job.blueprint,
            job.interface,
            Path(folder),
            parameters=job.settings,
            batch=wanted.batch,
            threads=wanted.threads,
            strategy=wanted.strategy,
            why=wanted.why,
        )
        _keep(found, library, packed(Path(folder)) if found.kept else None)
    return {"outcome": "done", "key": key, "compiled": True, "strategy": found.strategy}


def _has(library: Library, key: str) -> bool:
    """Whether there is a record, and what it says was kept, of our own make."""
    record = library.read(record_key(key))
    if record is None:
        return False
    if not Compilation.from_json(record).kept:
        return True
    return library.read(artifact_key(key), sealed=True) is not None


def _keep(found: Compilation, library: Library, artifact: bytes | None) -> None:
    """Store the artifact first: a record that names one never comes without it."""
    figures = {
        name: value
        for name in ("ratio", "training_ms", "eager_training_ms", "compile_ms")
        if (value := getattr(found, name)) is not None
    }
    keep = partial(
        library.put,
        blueprint=found.blueprint_id,
        interface=found.interface,
        performance=figures,
    )
    parents: tuple[str, ...] = ()
    if artifact is not None:
        parents = (keep(artifact_key(found.key), artifact, kind=KERNEL, sealed=True).id,)
    keep(record_key(found.key), found.to_json().encode(), kind=COMPILATION, parents=parents)
