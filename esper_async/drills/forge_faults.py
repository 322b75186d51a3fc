"""What strikes the forge. It rests once a run has its certificates, so it is given work first."""

import itertools
import os
import secrets
import signal
import time
from typing import Any

from esper_async.drills.fault import Fault, Overcome, stop_in_time, trains_again
from esper_async.drills.stage import JOB_LIMIT_S, Stage
from esper_async.kasmina.compiling.cxx import NO_COMPILER, cxx_compiler
from esper_async.leyline import SCHEMA_VERSION, CompileStrategy, KernelRequest, SiteInterface
from esper_async.leyline.keys import load_signer
from esper_async.oona.bridge import Bridge
from esper_async.runtime.processes import children

_AT_WORK_S = 120.0
_BLUEPRINT, _BATCH = "BP002", 8
_CHANNELS = itertools.count(3)


def _ask(stage: Stage, *, compiled: bool) -> None:
    """Ask the forge, as a run does, about an interface that nobody has asked about before."""
    request = KernelRequest(
        version=SCHEMA_VERSION,
        request_id=f"drill:{secrets.token_hex(8)}",
        run_id="drill",
        interface=SiteInterface(kind="spatial", shape=[next(_CHANNELS), 6, 6]),
    )
    if compiled:
        request.blueprint_id = _BLUEPRINT
        request.strategy = CompileStrategy.COMPILE_STRATEGY_STANDARD
        request.batch, request.threads = _BATCH, 1
    bridge = Bridge(
        f"unix://{stage.redis_socket}",
        stage.folder / "asks",
        load_signer(stage.state_dir / "leyline.key"),
        "drill",
    ).start()
    bridge.offer(request)
    bridge.close()


def _detail(stage: Stage) -> dict[str, Any]:
    return {"doing": "", "jobs": {}, **stage.service("tezzeret").get("detail", {})}


def _worker(stage: Stage) -> int:
    """Return the worker that proves something at this moment, after it was asked to.

    What fits the interface has been found by then: the worker is past its start.
    """
    before = _detail(stage)["jobs"].get("done", 0)
    _ask(stage, compiled=False)

    def proving() -> int | None:
        told = _detail(stage)
        at_it = told["doing"].startswith("prove") and told["jobs"].get("done", 0) > before
        return stage.child("forge") if at_it else None

    stage.until(proving, "a forge that proves", _AT_WORK_S)
    pid = stage.child("forge")
    if pid is None:
        raise ProcessLookupError("the worker has just ended")
    stage.struck_at = time.monotonic()
    return pid


def _works_on(stage: Stage, old: int) -> Overcome:
    """Another worker than `old` is at the work, or all of it is done."""

    def overcome() -> bool:
        worker, told = stage.child("forge"), _detail(stage)
        if worker == old or not told["jobs"]:
            return False
        at_it = worker is not None and not told["doing"].startswith("idle")
        return at_it or not any(told["jobs"].get(state) for state in ("queued", "running"))

    return overcome


def _kill(stage: Stage, _run_id: str) -> Overcome:
    pid = _worker(stage)
    os.killpg(pid, signal.SIGKILL)
    return _works_on(stage, pid)


def _freeze(stage: Stage, _run_id: str) -> Overcome:
    pid = _worker(stage)
    os.kill(pid, signal.SIGSTOP)
    return _works_on(stage, pid)


def _stop_while_proving(stage: Stage, run_id: str) -> Overcome:
    overcome = trains_again(stage, run_id, stage.child("train-"))
    _worker(stage)
    stop_in_time(stage)
    stage.start()
    return overcome


def _stop_while_compiling(stage: Stage, run_id: str) -> Overcome:
    """Stop while the worker's compiler runs: a process of a process of ours."""
    overcome = trains_again(stage, run_id, stage.child("train-"))
    _ask(stage, compiled=True)

    def compiling() -> bool:
        worker = stage.child("forge")
        at_it = _detail(stage)["doing"].startswith("compile")
        return at_it and worker is not None and bool(children(worker))

    stage.until(compiling, "a compiler at work", _AT_WORK_S)
    stage.struck_at = time.monotonic()
    stop_in_time(stage)
    stage.start()
    return overcome


def _no_compiler() -> str:
    return "" if cxx_compiler() else NO_COMPILER


FORGE_FAULTS = (
    Fault("forge-killed", "SIGKILL of the forge's worker at a proof", _kill),
    Fault(
        "forge-frozen",
        f"SIGSTOP of the forge's worker at a proof, found out after {JOB_LIMIT_S:g} s",
        _freeze,
    ),
    Fault("stopped-proving", "SIGTERM while the forge proves", _stop_while_proving),
    Fault(
        "stopped-compiling",
        "SIGTERM while the forge compiles",
        _stop_while_compiling,
        hindrance=_no_compiler,
    ),
)
