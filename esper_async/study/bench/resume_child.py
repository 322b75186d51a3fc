"""A training process that kills itself: `python -m esper_async.study.bench.resume_child`.

It trains MNIST-1D in a run folder, from its last checkpoint if there is one. At given steps it is
asked by an operator to cull a seed, or dies by SIGKILL. At the end it writes a digest of the
weights to `weights.json`. The library beside the folder keeps certificates for the next process.
"""

import argparse
import hashlib
import json
import os
import signal
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from esper_async.kasmina.branch import Branch
from esper_async.kasmina.options import GrowthOptions
from esper_async.study.bench.benchmark import replaced
from esper_async.tasks.mnist1d import make_task
from esper_async.tolaria.control import Steer
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.options import RunOptions
from esper_async.urza import Library

EPOCHS, CHECKPOINT_EVERY = 15, 3
DWELL_STEPS = 100
"""Shorter than the default, so that a whole trial fits into the run."""
BLUEPRINTS = ["BP009", "BP014"]


class ScriptedControl:
    """Asks for what it was told to at its step, once; and kills the process at its step."""

    def __init__(self, *, kill_at: int | None, cull_at: int | None, seed: str) -> None:
        self._kill_at = kill_at
        self._cull_at = cull_at
        self._seed = seed
        self._step = 0

    def poll(self) -> Sequence[Steer]:
        """Return the cull at its step."""
        if self._cull_at is None or self._step < self._cull_at:
            return ()
        self._cull_at = None
        return (Steer("cull", seed=self._seed),)

    def heartbeat(self, step: int, **progress: Any) -> None:
        """Die at the step to die at; nothing is flushed or closed."""
        self._step = step
        if self._kill_at is not None and step >= self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def wait(self, timeout_s: float) -> None:
        """Not wait: nothing pauses this run."""


def weights_digest(model: nn.Module) -> str:
    """Return a digest of every parameter and buffer, bit by bit, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def main() -> None:
    """Train in the folder given on the command line."""
    asked = _parser().parse_args()
    control = ScriptedControl(kill_at=asked.kill_at, cull_at=asked.cull_at, seed="s1")
    options = RunOptions(
        epochs=EPOCHS,
        policy="heuristic",
        seed=3,
        threads=1,
        checkpoint_every=CHECKPOINT_EVERY,
        growth=GrowthOptions(dwell_steps=DWELL_STEPS),
    )
    task = make_task(seed=3, schedule="constant")
    with _mutant(asked.mutant):
        library = Library(asked.folder.parent / "urza", actor="resume")
        engine = Engine(
            task,
            options,
            folder=asked.folder,
            control=control,
            certificates=library,
            blueprints=BLUEPRINTS,
        )
        with closing(library), closing(engine):
            outcome = engine.run()
    kept = [record["seed"] for record in outcome.transitions if record["to_stage"] == "FOSSILIZED"]
    result = {"weights": weights_digest(outcome.grower.model), "kept": kept}
    (asked.folder / "weights.json").write_text(json.dumps(result))


def _mutant(name: str | None) -> Any:
    if name is None:
        return nullcontext()
    target, replacement = {
        "journal": ("esper_async.tolaria.run_journal.RunJournal.decisions", lambda *_: []),
        "optimizer": ("esper_async.kasmina.branch.Branch.load_state_dict", _weights_alone),
    }[name]
    return replaced(target, replacement)


def _weights_alone(branch: Branch, state: dict[str, Any]) -> None:
    branch.model.load_state_dict(state["model"], strict=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--cull-at", type=int)
    parser.add_argument("--mutant")
    return parser


if __name__ == "__main__":
    main()
