"""Does the forge lose, repeat or give up anything: killed, fed with poison, out of room, alone?

The service as it is, in a process of its own with a bus in memory. It is killed at random instants
and started again until all that was asked has been answered. It is fed every adversarial blueprint,
which its worker then runs in earnest. Its disk is full for a while. There is no compiler for a
while.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from esper_async.leyline import CompileStrategy
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    shown,
    wants,
)
from esper_async.study.bench.forge_child import answers_in
from esper_async.study.bench.forge_worker import ENDLESS
from esper_async.study.bench.up_process import run_in_every_python

LOST, REPEATED, OUTLIVED = (
    "killed: requests without an answer",
    "killed: finished jobs done again",
    "killed: workers that outlive the forge by 2 s",
)
POISON_HELD, POISON_REFUSED, AFTER_POISON = (
    "adversarial: blueprints without a verdict",
    "adversarial: served to a live run",
    "adversarial: others not answered behind them",
)
FULL_LOST, FULL_BLAMED = "disk full: requests lost", "disk full: jobs given up"
NO_COMPILER_LOST, NO_COMPILER_GIVEN_UP, NO_COMPILER_SAID = (
    "compiler missing: proofs held up by it",
    "compiler missing: kernels given up for ever",
    "compiler missing: said so, with the remedy",
)
_KILLS = {Effort.SHORT: 5, Effort.FULL: 20}
_JOBS = {Effort.SHORT: 40, Effort.FULL: 200}
_STANDARD = int(CompileStrategy.COMPILE_STRATEGY_STANDARD)
_QUICK = "esper_async.study.bench.forge_worker:quick"
_FEARLESS = "esper_async.study.bench.forge_worker:fearless"
_HASTE = {"retry_s": 0.05, "recheck_s": 0.3, "start_limit_s": 60.0, "workers": 1}
_POISON = tuple(f"BP{number:03}" for number in range(43, 51))
_ADVERSARIAL_LIMIT_S = 8.0
_PATIENCE_S = {Effort.SHORT: 20.0, Effort.FULL: 60.0}
_REFUSALS = 8
"""So often nothing can be stored; three jobs have fewer attempts together."""
Ask = Mapping[str, Any]


def measure(effort: Effort) -> list[Row]:
    """Put a forge to each test in a folder of its own."""
    rows: list[Row] = []
    for figures, test in (
        ((LOST, REPEATED, OUTLIVED), _killed),
        ((FULL_LOST, FULL_BLAMED), _out_of_room),
        ((NO_COMPILER_LOST, NO_COMPILER_GIVEN_UP, NO_COMPILER_SAID), _without_a_compiler),
        ((POISON_HELD, POISON_REFUSED, AFTER_POISON), _poisoned),
    ):
        if wants(*figures):
            with tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
                rows += test(Path(folder), effort)
    return rows


def _killed(folder: Path, effort: Effort) -> list[Row]:
    """Kill it at random instants of its work, then let it finish."""
    asks = [_ask(f"job-{number}") for number in range(_JOBS[effort])]
    chance = random.Random(0)  # noqa: S311 - instants of a measurement
    _write(folder, asks)
    outlived = 0
    for number in range(_KILLS[effort]):
        before = len(_lines(folder, "done"))
        with _forge(folder, _QUICK) as process:
            _until((folder / "detail.json").exists, _PATIENCE_S[effort])
            if number % 2 == 0:  # else as it starts
                _until(partial(_has_done, folder, before + 1), _PATIENCE_S[effort])
            time.sleep(chance.uniform(0.0, 0.3))
            process.kill()
            process.wait()
        outlived += _outliving(folder)
        (folder / "detail.json").unlink(missing_ok=True)
    lost = _finish(folder, asks, _PATIENCE_S[effort])
    done = Counter(_lines(folder, "done"))
    return [
        judged(LOST, float(len(lost)), f"of {len(asks)}", Bar("at most", 0)),
        judged(REPEATED, float(sum(done.values()) - len(done)), "", Bar("at most", 0),
               note=f"{len(done)} done in {1 + _KILLS[effort]} lives"),
        judged(OUTLIVED, float(outlived), "", Bar("at most", 0)),
    ]  # fmt: skip


def _has_done(folder: Path, least: int) -> bool:
    return len(_lines(folder, "done")) >= least


def _outliving(folder: Path) -> int:
    """Count the workers that are there 2 s after their forge was killed, and end those."""
    pids = [int(line) for line in _lines(folder, "workers")]
    _until(lambda: not any(map(_lives, pids)), 2.0)
    left = [pid for pid in pids if _lives(pid)]
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(left)


def _lives(pid: int) -> bool:
    """Whether a process of ours is there and has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" and "forge-worker" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def _out_of_room(folder: Path, effort: Effort) -> list[Row]:
    """Let nothing be stored for a while in which each job is tried more often than it may fail."""
    asks = [_ask(f"job-{number}") for number in range(3)]
    _write(folder, asks)
    (folder / "full").touch()
    with _forge(folder, _QUICK, max_attempts=2) as process:
        _until(
            lambda: len(_lines(folder, "refused")) > _REFUSALS or process.poll() is not None,
            _PATIENCE_S[effort],
        )
        (folder / "full").unlink()
        _ended(process, _PATIENCE_S[effort])
    answers = answers_in(folder)
    failed = [answer for answer in answers if answer["type"] == "KernelError"]
    missing = {ask["id"] for ask in asks} - {answer["request"] for answer in answers}
    return [
        judged(FULL_LOST, float(len(missing)), f"of {len(asks)}", Bar("at most", 0)),
        judged(FULL_BLAMED, float(len(failed)), f"of {len(asks)}", Bar("at most", 0)),
    ]


def _without_a_compiler(folder: Path, effort: Effort) -> list[Row]:
    """Ask for a compiled kernel where nothing can compile, and again once there is a compiler."""
    compiled, proof = _ask("BP009", strategy=_STANDARD), _ask("job-1")
    _write(folder, [compiled, proof])
    said = ""
    with _forge(folder, _QUICK, environment={"CXX": "no-such-compiler"}) as process:
        _until(lambda: proof["id"] in _answered(folder), _PATIENCE_S[effort])
        time.sleep(1.0)
        with suppress(OSError, ValueError):
            said = json.loads((folder / "detail.json").read_text())["conservative"] or ""
        process.kill()
        process.wait()
    waited = proof["id"] not in _answered(folder)
    given_up = compiled["id"] in _answered(folder)
    with _forge(folder, _QUICK, environment={"CXX": sys.executable}) as process:
        _ended(process, _PATIENCE_S[effort])
    given_up |= compiled["id"] not in _answered(folder)
    given_up |= "compile BP009" not in _lines(folder, "done")
    return [
        judged(NO_COMPILER_LOST, float(waited), "", Bar("at most", 0)),
        judged(NO_COMPILER_GIVEN_UP, float(given_up), "", Bar("at most", 0)),
        judged(NO_COMPILER_SAID, float("install" in said), "", Bar("at least", 1), note=said),
    ]


def _poisoned(folder: Path, effort: Effort) -> list[Row]:
    """Feed it every adversarial blueprint: as a live run would, and to a worker that runs them."""
    poison = (*(_POISON if effort is Effort.FULL else ("BP045",)), ENDLESS)
    asks = [*map(_ask, poison), _ask("BP001")]
    limits: dict[str, Any] = {
        "job_limit_s": _ADVERSARIAL_LIMIT_S,
        "memory_bytes": 1 << 30,
        "max_attempts": 1,
    }
    rows: list[Row] = []
    if wants(POISON_HELD, AFTER_POISON):
        (folder / "fearless").mkdir()
        _write(folder / "fearless", asks)
        patience_s = len(poison) * (_ADVERSARIAL_LIMIT_S + 12.0)
        with _forge(folder / "fearless", _FEARLESS, **limits) as process:
            _ended(process, patience_s)
        _outliving(folder / "fearless")
        answered = _answered(folder / "fearless")
        held = [name for name in poison if f"ask-{name}" not in answered]
        told = {a["request"]: a["reason"] or "certified" for a in answers_in(folder / "fearless")}
        rows += [
            judged(POISON_HELD, float(len(held)), f"of {len(poison)}", Bar("at most", 0)),
            judged(AFTER_POISON, float("ask-BP001" not in answered), "", Bar("at most", 0)),
            *(shown(f"adversarial: {name}", 1.0, "", note=told.get(f"ask-{name}", "no verdict"))
              for name in poison),
        ]  # fmt: skip
    if wants(POISON_REFUSED):
        (folder / "live").mkdir()
        _write(folder / "live", asks)
        lost = _finish(folder / "live", asks, 60.0, "esper_async.tezzeret.worker:work")
        served = [
            answer
            for answer in answers_in(folder / "live")
            if answer["type"] == "KernelReady" and answer["request"] != "ask-BP001"
        ]
        rows.append(
            judged(POISON_REFUSED, float(len(served) + len(lost)), f"of {len(poison)}",
                   Bar("at most", 0))
        )  # fmt: skip
    return rows


# -- parts -----------------------------------------------------------------------------------------


def _ask(blueprint: str, strategy: int = 0) -> Ask:
    return {"id": f"ask-{blueprint}", "blueprint": blueprint, "strategy": strategy}


def _write(folder: Path, asks: Sequence[Ask]) -> None:
    (folder / "asks.json").write_text(json.dumps(list(asks)))


@contextmanager
def _forge(
    folder: Path,
    target: str,
    *,
    environment: Mapping[str, str] | None = None,
    **settings: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a forge in a folder; it is gone after the block."""
    command = [sys.executable, "-m", "esper_async.study.bench.forge_child"]
    command += [str(folder), target, json.dumps({**_HASTE, **settings})]
    with (folder / "said").open("ab") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=said, env={**os.environ, **(environment or {})}
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _finish(
    folder: Path, asks: Sequence[Ask], patience_s: float, target: str = _QUICK
) -> list[str]:
    """Let a forge go on until all is answered; return the requests that are not."""
    with _forge(folder, target) as process:
        _ended(process, patience_s)
    return sorted({ask["id"] for ask in asks} - _answered(folder))


def _ended(process: subprocess.Popen[bytes], patience_s: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)


def _answered(folder: Path) -> set[str]:
    return {answer["request"] for answer in answers_in(folder)}


def _lines(folder: Path, name: str) -> list[str]:
    path = folder / f"{name}.txt"
    return path.read_text().splitlines() if path.exists() else []


def _until(condition: Any, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


# -- mutants ---------------------------------------------------------------------------------------

_NEVER_RECOVERS = """
from esper_async.tezzeret.queue import JobQueue
JobQueue.recover = lambda self, busy=(): None
"""
_BEGINS_ANEW = """
from esper_async.tezzeret.job import JobState
from esper_async.tezzeret.queue import JobQueue
from esper_async.urza import library
def recover(self, busy=()):
    with self._writing() as database:
        database.execute("UPDATE jobs SET state = ?", (JobState.QUEUED,))
        database.execute("UPDATE requests SET answered = 0")
JobQueue.recover = recover
whole = library.Library.certificate
import sys
if any("forge-worker" in each for each in sys.orig_argv):
    library.Library.certificate = lambda self, key: None
"""
_WORKERS_LIVE_ON = """
from esper_async.study.bench import forge_worker
whole = forge_worker.quick
def leaving(link, *, library, **limits):
    import os, time
    from pathlib import Path
    if os.fork() == 0:
        os.setsid()
        forge_worker._note(Path(library).parent, "workers", str(os.getpid()))
        time.sleep(120)
        os._exit(0)
    return whole(link, library=library, **limits)
forge_worker.quick = leaving
"""
_NO_LIMIT = """
from esper_async.tezzeret import workbench
whole = workbench.Workbench.__init__
def patient(self, spec, **limits):
    whole(self, spec, **{**limits, "job_limit_s": 3600.0})
workbench.Workbench.__init__ = patient
"""
_NO_QUARANTINE = """
from esper_async.study.bench import forge_worker
from esper_async.tezzeret import service
whole = service.TezzeretService.__init__
def daring(self, *given, worker_target, **named):
    whole(self, *given, worker_target="esper_async.study.bench.forge_worker:trusting", **named)
service.TezzeretService.__init__ = daring
"""
_BLAMES_THE_JOB = """
from esper_async.tezzeret.queue import JobQueue
JobQueue.give_back = JobQueue.fail
"""
_NEVER_LOOKS = """
from esper_async.tezzeret import forge
forge.cxx_compiler = lambda: "/usr/bin/g++"
"""
_WAITS_FOR_ALL = """
from esper_async.tezzeret import forge
whole = forge.Forge._impossible
forge.Forge._impossible = lambda self: list(forge.JobKind) if whole(self) else []
"""


def _mutant(name: str, description: str, source: str, *fails: str) -> Mutant:
    return Mutant(name, description, lambda: run_in_every_python(source), fails=fails)


BENCHMARK = Benchmark(
    name="forge",
    question="does the forge lose, repeat or give up anything, whatever happens to it?",
    measure=measure,
    timed=False,
    mutants=(
        _mutant("never recovers", "a job that was cut short stays as it was", _NEVER_RECOVERS,
                LOST),
        _mutant("begins anew", "every job is queued again at the start", _BEGINS_ANEW, REPEATED),
        _mutant("workers live on", "each worker leaves a process of its own behind",
                _WORKERS_LIVE_ON, OUTLIVED),
        _mutant("no limit on time", "a job may take for ever", _NO_LIMIT,
                POISON_HELD, AFTER_POISON),
        _mutant("no quarantine", "the worker certifies whatever it is asked for", _NO_QUARANTINE,
                POISON_REFUSED),
        _mutant("blames the job", "what could not be stored counts as a failed attempt",
                _BLAMES_THE_JOB, FULL_BLAMED),
        _mutant("loses the job", "what could not be stored is dropped", """
from esper_async.tezzeret.queue import JobQueue
def drop(self, job_id, reason):
    with self._writing() as database:
        database.execute("UPDATE jobs SET state = 'running' WHERE id = ?", (job_id,))
    return self.get(job_id)
JobQueue.give_back = drop
JobQueue.recover = lambda self, busy=(): None
""", FULL_LOST),
        _mutant("never looks for a compiler", "compiles as if there were one, and steps down",
                _NEVER_LOOKS, NO_COMPILER_GIVEN_UP, NO_COMPILER_SAID),
        _mutant("waits for the compiler", "nothing is done until there is one", _WAITS_FOR_ALL,
                NO_COMPILER_LOST),
    ),
)  # fmt: skip
