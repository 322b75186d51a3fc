"""How soon does a model of a user's own train, once its kernels are proved? Real processes.

`up` is run once on a file outside the package, so that certificates exist and bytecode is written,
and then again with the same state directory. The clock runs from the start of the process to the
run's first boundary, which is set after its first step: supervisor, imports, the user's file, the
search for sites, certificates, and the step. Of several starts the best counts.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from esper_async.runtime.journal import read_journal
from esper_async.runtime.processes import queued_s
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
from esper_async.study.bench.own_models import OWN_MODELS
from esper_async.study.bench.up_process import run_in_every_python, started

MOST_FIRST_STEP_S = 5.0
CALM_S = 3.5
"""On a machine where a plain script needs longer, others are at work, or it is slow."""
_STARTS = {Effort.SHORT: 2, Effort.FULL: 5}
_MODELS = {Effort.SHORT: ("table MLP",), Effort.FULL: tuple(OWN_MODELS)}
_PATIENCE_S = 600.0
_RUN_FILE = """[run]
task = "own_model.py:make_task"
epochs = 1
boundary_every = 1
"""
_PLAIN_SCRIPT = """
import sys
sys.path.insert(0, ".")
import torch
from own_model import make_task
task = make_task()
optimizer = torch.optim.AdamW(task.model.parameters())
inputs, targets = next(iter(task.train_loader))
task.loss(task.model(inputs), targets).backward()
optimizer.step()
"""


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds to the first step, and how long of it was spent waiting for a core."""

    step_s: float
    waited_s: float


def measure(effort: Effort) -> list[Row]:
    """Start each model's run again and again and time it."""
    with tempfile.TemporaryDirectory(prefix="esper-first-step-") as scratch:
        bytecode = Path(scratch) / "bytecode"
        return [
            row
            for number, name in enumerate(_MODELS[effort])
            for row in _rows(name, Path(scratch) / str(number), bytecode, _STARTS[effort])
        ]


def _rows(name: str, folder: Path, bytecode: Path, count: int) -> list[Row]:
    folder.mkdir()
    (folder / "own_model.py").write_text(OWN_MODELS[name])
    (folder / "run.toml").write_text(_RUN_FILE)
    environment = _environment(bytecode)
    proving = _start(folder, environment)
    plain = f"{name}: a plain script to its first step"
    count = count if wants(plain) else 1  # a mutant shows at once
    # turn by turn, so that both meet the same load
    turns = [(_start(folder, environment), _plain_s(folder, environment)) for _ in range(count)]
    warm = [start for start, _ in turns]
    plain_s = min(plain_s for _, plain_s in turns)
    return [
        _judged(name, warm, plain_s, proving),
        shown(plain, plain_s, "s",
              note=f"best of {count}: torch, the file, one step of AdamW"),
    ]  # fmt: skip


def _judged(name: str, warm: Sequence[Start], plain_s: float, proving: Start | None) -> Row:
    """Judge the best start; its interval's low end is the best without waiting for a core.

    On a slow or busy machine that may be late as well, by as much as a plain script is: doubtful.
    """
    best_s = min(start.step_s for start in warm)
    unhindered_s = min(start.step_s - start.waited_s for start in warm)
    slowness = plain_s / CALM_S
    explained = slowness > 1.0 and unhindered_s / slowness <= MOST_FIRST_STEP_S < best_s
    note = f"best of {len(warm)}, slowest {max(start.step_s for start in warm):.1f} s; the low end "
    note += "is without waiting for a core"
    if proving is not None:
        note += f"; proving, it was {proving.step_s:.1f} s"
    return judged(
        f"{name}: warm `up` to its first step",
        best_s,
        "s",
        Bar("at most", MOST_FIRST_STEP_S),
        interval=(unhindered_s, best_s),
        note=note,
        doubt=f"{note}; a plain script alone takes {plain_s:.1f} s here" if explained else "",
    )


def _environment(bytecode: Path) -> Mapping[str, str]:
    """Have bytecode written, as on any machine but one that was told not to."""
    inherited = {key: os.environ[key] for key in os.environ if key != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "PYTHONPYCACHEPREFIX": str(bytecode)}


def _start(folder: Path, environment: Mapping[str, str]) -> Start:
    """Run `up` to the end of a new run; read from outside when it had taken its first step.

    Raises:
        UpError: there was no first step, or `up` failed or did not end.
    """
    before = set(folder.glob("state/runs/*"))
    stepped_at: list[float] = []

    def stepped() -> bool:
        queue.look()
        for run in set(folder.glob("state/runs/*")) - before:
            records = read_journal(run / "journal.jsonl")
            stepped_at.extend(each["time"] for each in records if each["kind"] == "boundary")
        return bool(stepped_at)

    arguments = ("--run", "run.toml", "--exit-when-done")
    with started(folder, *arguments, environment=environment) as up:
        queue = _Queue(up.pid)
        up.until(stepped, "the first step", patience_s=_PATIENCE_S)
        up.end(patience_s=_PATIENCE_S)
    return Start(stepped_at[0] - up.began_at, queue.waited_s)


class _Queue:
    """How long a start stood waiting for a core: the supervisor, then its training process.

    What the supervisor waits for once the training process is there delays no step.
    """

    def __init__(self, supervisor: int, *, proc: Path = Path("/proc")) -> None:
        self._supervisor = proc / str(supervisor)
        self._before_s = self._training_s = 0.0

    @property
    def waited_s(self) -> float:
        """Seconds in the queue until the last look."""
        return self._before_s + self._training_s

    def look(self) -> None:
        """Read how long by now; nothing where the kernel does not tell, or the process is gone."""
        with suppress(OSError):
            training = self._training_process()
            if training is not None:
                self._training_s = queued_s(training)
            elif not self._training_s:
                self._before_s = queued_s(self._supervisor)

    def _training_process(self) -> Path | None:
        children = self._supervisor / "task" / self._supervisor.name / "children"
        for pid in children.read_text().split():
            child = self._supervisor.with_name(pid)
            if "\0train-" in (child / "cmdline").read_text():
                return child
        return None


def _plain_s(folder: Path, environment: Mapping[str, str]) -> float:
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", _PLAIN_SCRIPT],
        check=True,
        capture_output=True,
        cwd=folder,
        env=environment,
    )
    return time.monotonic() - began


_LIBRARY_OF_ITS_OWN = """
import os
from esper_async.urza import library
whole = library.Library.__init__
def of_its_own(self, directory, **options):
    whole(self, directory / str(os.getpid()), **options)
library.Library.__init__ = of_its_own
"""


BENCHMARK = Benchmark(
    name="first-step",
    question="does a user's own model train at once when its kernels are proved?",
    measure=measure,
    mutants=(
        Mutant(
            "certificates not found again",
            "a process finds only what it has stored itself, so every kernel is proved anew",
            lambda: run_in_every_python(_LIBRARY_OF_ITS_OWN),
            fails=("*: warm `up` to its first step",),
        ),
    ),
)
