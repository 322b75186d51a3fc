"""Is a run that was killed bitwise the run that was not? SIGKILL in the middle of epochs.

The run grows while it is killed: once with candidates training in shadow, right after an operator
culled one of them, and once with a seed on trial beside its twin.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esper_async.runtime.journal import read_journal
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    shown,
)

CULL_AT = 198
"""In the seventh epoch; carried out at boundary 7, behind the checkpoint of boundary 6."""
_KILLS = {
    Effort.SHORT: ((240, 375),),
    Effort.FULL: ((240, 375), (33, 200), (240, 260), (350, 449), (380, 381), (470,)),
}
_TIMEOUT_S = 300.0


class ChildFailedError(RuntimeError):
    """A training process ended in a way that was not asked for."""


def measure(effort: Effort) -> list[Row]:
    """Train once without interruption, then with kills, and compare weights and journals."""
    with tempfile.TemporaryDirectory() as scratch:
        straight = _Run(Path(scratch) / "straight")
        straight.start(cull=True)
        rows = [
            shown("seeds kept by the uninterrupted run", float(len(straight.result["kept"])), "")
        ]
        for number, kills in enumerate(_KILLS[effort]):
            killed = _Run(Path(scratch) / f"killed-{number}")
            killed.suffer(kills)
            rows += _compare(straight, killed, kills)
    return rows


def _compare(straight: "_Run", killed: "_Run", kills: Sequence[int]) -> list[Row]:
    when = f"killed at steps {', '.join(map(str, kills))}"
    same = float(straight.result["weights"] == killed.result["weights"])
    expected, found = straight.told(), killed.told()
    return [
        judged(f"{when}: weights bitwise equal", same, "", Bar("at least", 1.0)),
        judged(
            f"{when}: records told twice, or lost",
            float(((found - expected) + (expected - found)).total()),
            "",
            Bar("at most", 0.0),
            note=f"of {expected.total()}: boundaries, decisions, transitions, field reports",
        ),
    ]


class _Run:
    """A run folder and the processes that train in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def suffer(self, kills: Sequence[int]) -> None:
        """Train to the end through a kill at each of the given steps."""
        cull = True
        for step in kills:
            self.start(cull=cull, kill_at=step)
            cull = cull and step <= CULL_AT
        self.start(cull=cull)

    def start(self, *, cull: bool, kill_at: int | None = None) -> None:
        """Run one process; the operator's request reaches it if `cull`."""
        arguments = [str(self.folder), *_child_flags()]
        arguments += ["--cull-at", str(CULL_AT)] if cull else []
        arguments += ["--kill-at", str(kill_at)] if kill_at is not None else []
        child = subprocess.run(
            [sys.executable, "-m", "esper_async.study.bench.resume_child", *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        expected = 0 if kill_at is None else -signal.SIGKILL
        if child.returncode != expected:
            raise ChildFailedError(
                f"the training process ended with {child.returncode}, not {expected}: "
                f"{child.stderr[-2000:]}"
            )

    @property
    def result(self) -> dict[str, Any]:
        """What the run ended with."""
        document: dict[str, Any] = json.loads((self.folder / "weights.json").read_text())
        return document

    def told(self) -> Counter[tuple[Any, ...]]:
        """Return every record whose effect must happen once, with how often it was written."""
        found: Counter[tuple[Any, ...]] = Counter()
        for record in read_journal(self.folder / "journal.jsonl"):
            name = _NAMED_BY.get(record["kind"])
            if name is not None:
                found[
                    (record["kind"], record["boundary"], *(str(record[key]) for key in name))
                ] += 1
        return found


_NAMED_BY = {
    "boundary": (),
    "decision": ("policy", "command"),
    "transition": ("seed", "from_stage", "to_stage"),
    "field_report": ("report_id",),
}


def _child_flags() -> list[str]:
    return []


BENCHMARK = Benchmark(
    name="resume",
    question="is a killed run bitwise the run that was not killed?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "journal not replayed",
            "what was commanded after the checkpoint is forgotten",
            lambda: replaced(f"{__name__}._child_flags", lambda: ["--mutant", "journal"]),
            fails=("*: weights bitwise equal", "*: records told twice, or lost"),
        ),
        Mutant(
            "optimizer state forgotten",
            "weights are restored, moments start from zero",
            lambda: replaced(f"{__name__}._child_flags", lambda: ["--mutant", "optimizer"]),
            fails=("*: weights bitwise equal",),
        ),
    ),
)
