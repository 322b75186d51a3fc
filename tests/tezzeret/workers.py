"""Worker targets that do not need torch: each blueprint's name says what its proof does."""

import os
import signal
import time
from pathlib import Path

from esper_async.kasmina.compiling.kernel_artifact import artifact_key, packed, record_key
from esper_async.kasmina.compiling.kernel_record import Compilation, Strategy
from esper_async.leyline import load_signer
from esper_async.runtime.child_main import ChildLink
from esper_async.tezzeret.job import JobKind, Work
from esper_async.tezzeret.worker_loop import Outcome, serve
from esper_async.urza import Library

FITTING = ["BP001", "BP002", "BP003"]


def scripted(link: ChildLink, *, library: str, **_: object) -> int:
    """Perform what the blueprint's name says, and note each job in `proved.txt`."""
    signer = load_signer(Path(library).parent / "leyline.key")
    shelves = Library(Path(library), actor="worker", signer=signer)
    notes = Path(library).parent / "proved.txt"

    def perform(work: Work) -> Outcome:
        name = work.blueprint
        if work.kind is JobKind.SURVEY:
            return {"outcome": "done", "key": "", "found": FITTING}
        key = f"{name}-{work.interface.key}"
        if work.compile is not None:
            return _compile(work, key, shelves, notes)
        if shelves.certificate(key) is not None:
            return {"outcome": "done", "key": key}
        if name == "hangs":
            time.sleep(600)
        if name == "dies" or (name == "dies-once" and not _met_before(notes, name)):
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "refused":
            return {"outcome": "refused", "error": "adversarial: refused for every live run"}
        if name == "unstored" and not _met_before(notes, name):
            return {"outcome": "unstored", "error": "OSError: no space left on device"}
        if name == "slow":
            time.sleep(0.3)
        record = {
            "passed": name != "unproved",
            "failures": [] if name != "unproved" else ["not near identity", "no gradient"],
            "parameter_count": 12,
            "forward_ms": 0.5,
            "training_ms": 1.25,
            "forward_flops": 100,
            "saved_bytes": None,
        }
        shelves.put_certificate(key, record, blueprint=name, interface=work.interface.key)
        with notes.open("a") as file:
            file.write(f"proved {name} {work.interface.key}\n")
        return {"outcome": "done", "key": key}

    return serve(link, perform)


def _compile(work: Work, key: str, shelves: Library, notes: Path) -> Outcome:
    wanted = work.compile
    assert wanted is not None
    if work.blueprint == "lasting" and not _met_before(notes, "lasting"):
        time.sleep(600)
    if work.blueprint == "stubborn" and wanted.strategy is not Strategy.EMERGENCY:
        return {"outcome": "failed", "error": f"the compiler broke at {wanted.strategy}"}
    with notes.open("a") as file:
        file.write(f"compiled {work.blueprint} {wanted.strategy}\n")
    kept = wanted.strategy is not Strategy.EMERGENCY
    record = Compilation(
        key=key,
        certificate_key=f"{key} is certified",
        blueprint_id=work.blueprint,
        interface=work.interface.key,
        settings={},
        batch=wanted.batch,
        threads=wanted.threads,
        strategy=wanted.strategy,
        kept=kept,
        reason="" if kept else wanted.why,
        torch_version="2.8.0",
        **({"forward_ms": 1.0, "training_ms": 3.0} if kept else {}),
    )
    if kept:
        folder = notes.parent / "made"
        folder.mkdir(exist_ok=True)
        (folder / "forward.so").write_bytes(b"code")
        shelves.put(artifact_key(key), packed(folder), kind="kernel", sealed=True)
    shelves.put(record_key(key), record.to_json().encode(), kind="compilation")
    return {"outcome": "done", "key": key, "strategy": wanted.strategy}


def _met_before(notes: Path, name: str) -> bool:
    mark = notes.with_name(f"met-{name}")
    met = mark.exists()
    mark.touch()
    return met


def never_warm(link: ChildLink, **_: object) -> int:
    """Fail before taking any job, as a broken installation does."""
    raise ImportError("no torch here")
