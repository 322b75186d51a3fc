"""Is whatever is wrong named, with the way out, and is nothing left running?

Each input goes to the real command line in a process of its own. What is wrong must stand in the
answer beside what would be right; it must end with an exit code that is no success, without a
traceback that nobody asked for, and without leaving a process behind.
"""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from esper_async.study.bench.benchmark import Bar, Benchmark, Effort, Mutant, Row, judged
from esper_async.study.bench.command_line import TRACEBACK_VARIABLE, Answer, answer_of
from esper_async.study.bench.up_process import run_in_every_python

_UP = ("up", "--state-dir", "state", "--port", "0")
_RUN = (*_UP, "--run", "run.toml", "--exit-when-done")
_RUN_FILE = "[run]\ntask = 'task.py:make_task'\nepochs = 2\n"
_TASK = """import torch
from torch import nn
from esper_async import Task

def make_task():
    batches = {batches}
    return Task(model={model}, train_loader=batches, validation_loader=batches,
                loss=nn.functional.cross_entropy)
"""
_BATCHES = "[(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))]"
_MODEL = "nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))"


@dataclass(frozen=True, slots=True)
class Wrong:
    """A wrong input: files and arguments, and the words with which it must be answered."""

    what: str
    words: tuple[str, ...]
    arguments: tuple[str, ...] = _RUN
    run_file: str = _RUN_FILE
    task: str = ""
    prepare: Callable[[Path], None] = lambda folder: None


def _spoil_state_directory(folder: Path) -> None:
    (folder / "state").write_text("a file stands where a directory is to be")


_ALL = (
    Wrong("an unknown key", ("run.toml", "run.epoch", "run.epochs"),
          run_file="[run]\ntask = 'task.py:make_task'\nepoch = 2\n"),
    Wrong("a missing file", ("gone.toml", "there is no file"), (*_UP, "--run", "gone.toml")),
    Wrong("a port that is taken", ("{port}", "is taken", "--port"),
          ("up", "--no-run", "--state-dir", "state", "--port", "{port}")),
    Wrong("a task that raises", ("the cat ate the data", "make_task"),
          task="def make_task():\n    raise RuntimeError('the cat ate the data')\n"),
    Wrong("a state directory that cannot be written", ("state", "--state-dir"),
          prepare=_spoil_state_directory),
    Wrong("a Redis that does not answer", ("oona could not start", "oona.redis_url"),
          (*_UP, "--no-run", "--set", "oona.redis_url=redis://127.0.0.1:1/0")),
    Wrong("a loader that yields nothing", ("loader", "yielded no batch"),
          task=_TASK.format(batches="[]", model=_MODEL)),
    Wrong("a loss that is not a number at once", ("loss", "nan"),
          task=_TASK.format(batches=_BATCHES.replace("torch.randn(4, 3)",
                            "torch.full((4, 3), float('nan'))"), model=_MODEL)),
    Wrong("a model with no place to grow", ("no site to grow", "submodule"),
          task=_TASK.format(batches=_BATCHES, model="nn.Linear(3, 2)")),
)  # fmt: skip
_COUNT = {Effort.SHORT: 4, Effort.FULL: len(_ALL)}


def measure(effort: Effort) -> list[Row]:
    """Give every wrong input to the command line and read its answer."""
    met = [(wrong, *_answered(wrong)) for wrong in _ALL[: _COUNT[effort]]]

    def row(figure: str, whose: Sequence[str]) -> Row:
        note = f"of {len(met)}" + (f": {'; '.join(whose)}" if whose else "")
        return judged(figure, float(len(whose)), "inputs", Bar("at most", 0.0), note=note)

    return [
        row("not named, or without the way out", [
            f"{wrong.what}, which lacks {missing!r} in {answer.said[-300:]!r}"
            for wrong, answer, missing in met if missing
        ]),
        row("answered with a traceback", [
            wrong.what for wrong, answer, _ in met if "Traceback" in answer.said
        ]),
        row("taken for a success", [wrong.what for wrong, answer, _ in met if answer.code == 0]),
        row("that leave something running", [
            f"{wrong.what}: {answer.left[0]}" for wrong, answer, _ in met if answer.left
        ]),
    ]  # fmt: skip


def _answered(wrong: Wrong) -> tuple[Answer, str]:
    """Return the answer, and the first word that it lacks, or nothing."""
    with tempfile.TemporaryDirectory(prefix="esper-bad-input-") as scratch, ExitStack() as stack:
        folder = Path(scratch)
        (folder / "run.toml").write_text(wrong.run_file)
        (folder / "task.py").write_text(wrong.task)
        wrong.prepare(folder)
        taken = stack.enter_context(socket.socket())
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        answer = answer_of(folder, *(each.replace("{port}", port) for each in wrong.arguments))
        words = [word.replace("{port}", port) for word in wrong.words]
    return answer, next((word for word in words if word not in answer.said), "")


@contextmanager
def _tracebacks() -> Iterator[None]:
    with mock.patch.dict(os.environ, {TRACEBACK_VARIABLE: "1"}):
        yield


_SAYS_NOTHING = """
from esper_async.cli import failure
failure.complain = lambda message: print("esper-supervisor: it failed")
"""
_ALWAYS_WELL = """
from esper_async.cli import failure
failure._exit_code = lambda error: 0
"""
_LEAVES_SOMETHING = """
import subprocess, sys
if "up" in sys.orig_argv:
    subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(5)"],
                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL, start_new_session=True)
"""

BENCHMARK = Benchmark(
    name="bad-input",
    question="is what is wrong named, with the way out, and nothing left running?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "errors as they fall",
            "what goes wrong is shown as Python shows it",
            _tracebacks,
            fails=("answered with a traceback",),
        ),
        Mutant(
            "it failed",
            "every error has the same message",
            lambda: run_in_every_python(_SAYS_NOTHING),
            fails=("not named, or without the way out",),
        ),
        Mutant(
            "all is well",
            "an expected error ends with exit code 0",
            lambda: run_in_every_python(_ALWAYS_WELL),
            fails=("taken for a success",),
        ),
        Mutant(
            "a child of its own",
            "`up` starts a process in a session of its own and forgets it",
            lambda: run_in_every_python(_LEAVES_SOMETHING),
            fails=("that leave something running",),
        ),
    ),
)
