"""Lives of a run, one after another: `python -m esper_async.study.bench.nursery FOLDER MUTANT`.

The process reads from its standard input a list of runs, each a list of deaths. It trains one
without any itself, then each in a folder of its own through its deaths to its end, with a fork for
each life. What became of each is told on standard output.
"""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from esper_async.kasmina.branch import Branch
from esper_async.kasmina.trial import Trial
from esper_async.runtime.files import write_json_atomically
from esper_async.runtime.journal import read_journal
from esper_async.study.bench.benchmark import replaced
from esper_async.study.bench.deaths import Death, dying
from esper_async.study.bench.drilled_run import Fate, live
from esper_async.study.bench.left_behind import at_work
from esper_async.tolaria import checkpoint_file
from esper_async.tolaria.checkpoint_file import FORMAT, Loaded
from esper_async.tolaria.pace import Pace

STRAIGHT = "straight"
_POLL_S = 0.002


def main() -> None:
    """Raise one run after another, and tell how each was met by its deaths."""
    torch.set_num_threads(1)  # a fork would lose the others
    folder, mutant = Path(sys.argv[1]), sys.argv[2]
    runs = [[Death(**death) for death in deaths] for deaths in json.load(sys.stdin)]
    straight = _make_folder(folder / STRAIGHT)
    live(straight, Fate(straight))  # here: what torch does at its first step, no fork does again
    times = [record["time"] for record in read_journal(straight / "journal.jsonl")]
    whole_s = times[-1] - times[0]
    told = [
        _suffer(_make_folder(folder / str(number)), deaths, mutant, whole_s)
        for number, deaths in enumerate(runs)
    ]
    json.dump(told, sys.stdout)


def _suffer(folder: Path, deaths: list[Death], mutant: str, whole_s: float) -> dict[str, list[Any]]:
    """Train through the deaths to the end; return what was going on at each, and what went amiss.

    A run that comes to its end before a death of chance has escaped that one and those after it.
    """
    met: list[list[str]] = []
    for death in deaths:
        limit_s = None if death.place is not None else death.share * whole_s
        status = _raise_child(partial(_live, folder, death, mutant), limit_s)
        if status != -signal.SIGKILL:
            escaped = status == 0 and death.place is None
            return {"met": met, "amiss": [] if escaped else [f"{death.place}: ended {status}"]}
        met.append(at_work(folder))
    status = _raise_child(partial(_live, folder, Death(), mutant), None)
    return {"met": met, "amiss": [] if status == 0 else [f"the last life: ended {status}"]}


def _raise_child(body: Callable[[], None], limit_s: float | None) -> int:
    """Run `body` in a fork, killed after so many seconds; return its exit code, -9 if killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            body()
            code = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            sys.stderr.flush()
            os._exit(code)
    if limit_s is not None:
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(_POLL_S)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _live(folder: Path, death: Death, mutant: str) -> None:
    # what a mutant breaks behind a checkpoint shows only in a life that finds that checkpoint
    fate = Fate(folder, waits=death.place is not None and death.kind != "a checkpoint")
    with _broken(mutant), dying(death, fate):
        live(folder, fate)


def _make_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


# -- mutants ---------------------------------------------------------------------------------------


def _broken(mutant: str) -> AbstractContextManager[Any]:
    if not mutant:
        return nullcontext()
    stack = ExitStack()
    for target, replacement in _MUTANTS[mutant].items():
        stack.enter_context(replaced(f"esper_async.{target}", replacement))
    return stack


def _weights_alone(branch: Branch, state: Mapping[str, Any]) -> None:
    branch.model.load_state_dict(state["model"], strict=True)


def _without_the_twin(trial: Trial, state: dict[str, Any]) -> None:
    _whole_load(trial, {**state, "twin": trial.twin.state_dict()} if trial.has_twin else state)


def _counts_at_once(folder: Path, step: int, state: Mapping[str, Any], pace: Pace) -> Path:
    path = folder / f"{step:010d}.pt"
    manifest = {"format": FORMAT, "step": step, "file": path.name}
    write_json_atomically(path.with_suffix(".json"), manifest)
    checkpoint_file._write_state(path, state, pace)
    return path


def _at_its_word(manifest_path: Path) -> Loaded:
    manifest = json.loads(manifest_path.read_text())
    path = manifest_path.with_name(manifest["file"])
    return Loaded(manifest["step"], torch.load(path, weights_only=True))


_whole_load = Trial.load_state_dict
_MUTANTS: Mapping[str, Mapping[str, object]] = {
    "again": {"tolaria.run_journal._ONCE": ()},
    "early": {
        "tolaria.checkpoint.write_checkpoint": _counts_at_once,
        "tolaria.checkpoint.read_checkpoint": _at_its_word,
    },
    "journal": {"tolaria.run_journal.RunJournal.decisions": lambda *_: []},
    "moments": {"kasmina.branch.Branch.load_state_dict": _weights_alone},
    "rollback": {"tolaria.run_journal.RunJournal.last_rollback": None},
    "twin": {"kasmina.trial.Trial.load_state_dict": _without_the_twin},
}


if __name__ == "__main__":
    main()
