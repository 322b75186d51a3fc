"""Does a model of a user's own work: is it seen where it can grow, and does it train to its end?

Each model is a file outside the package that mentions Esper only in its `Task`. `check` must list
its sites; `up --run` must train it to the end, try seeds in it, and leave a network whose loss on
the decision split is smaller than after the first epoch.
"""

import json
import math
import tempfile
from pathlib import Path

from esper_async.runtime.journal import read_journal
from esper_async.study.bench.benchmark import Bar, Benchmark, Effort, Mutant, Row, judged
from esper_async.study.bench.command_line import answer_of
from esper_async.study.bench.own_models import OWN_MODELS
from esper_async.study.bench.up_process import run_in_every_python

_MODELS = {Effort.SHORT: ("table MLP",), Effort.FULL: tuple(OWN_MODELS)}
_RUN_FILE = """[run]
task = "own_model.py:make_task"
epochs = 16
seed = 3
[growth]
dwell_steps = 9
ramp_boundaries = 2
window_boundaries = 2
"""


def measure(effort: Effort) -> list[Row]:
    """Have each model checked, and trained."""
    unseen: list[str] = []
    unfinished: list[str] = []
    for name in _MODELS[effort]:
        with tempfile.TemporaryDirectory(prefix="esper-own-model-") as scratch:
            folder = Path(scratch)
            (folder / "own_model.py").write_text(OWN_MODELS[name])
            (folder / "run.toml").write_text(_RUN_FILE)
            unseen += _unseen(name, folder)
            unfinished += _unfinished(name, folder)
    count = len(_MODELS[effort])

    def row(figure: str, whose: list[str]) -> Row:
        note = f"of {count}" + (f": {'; '.join(whose)}" if whose else "")
        return judged(figure, float(len(whose)), "models", Bar("at most", 0.0), note=note)

    return [
        row("models whose sites `check` does not list", unseen),
        row("models that `up` does not train and grow to the end", unfinished),
    ]


def _unseen(name: str, folder: Path) -> list[str]:
    answer = answer_of(folder, "check", "run.toml", "--json")
    if answer.code != 0:
        return [f"{name}: `check` said {answer.said[-300:]!r}"]
    document = json.loads(answer.said)
    sites = {site["site"]: len(site["blueprints"]) for site in document["sites"]}
    return [] if sites and min(sites.values()) >= 10 else [f"{name}: {sites}"]


def _unfinished(name: str, folder: Path) -> list[str]:
    answer = answer_of(
        folder, "up", "--state-dir", "state", "--port", "0", "--run", "run.toml",
        "--exit-when-done",
    )  # fmt: skip
    runs = list((folder / "state" / "runs").glob("*"))
    if answer.code != 0 or len(runs) != 1:
        return [f"{name}: `up` ended with {answer.code}: {answer.said[-300:]!r}"]
    records = list(read_journal(runs[0] / "journal.jsonl"))
    losses = [
        each["metrics"]["validation_loss"] for each in records if each["kind"] == "boundary"
    ] or [math.nan]
    tried = sum(each["kind"] == "transition" for each in records)
    left = (runs[0] / "model.pt").exists()
    if losses[-1] < losses[0] and tried and left:
        return []
    return [f"{name}: loss {losses[0]:.3f} to {losses[-1]:.3f}, {tried} stage changes"]


_NO_SITE = """
import sys
if "esper_async.tolaria.check" in sys.orig_argv:
    from esper_async.kasmina import sites
    sites.find_sites = lambda *arguments, **named: []
"""
_NEVER_PLANTS = """
import sys
if any(each.startswith("train-") for each in sys.orig_argv):
    from esper_async.kasmina import executor
    executor.Executor.germinate = lambda self, candidates: []
"""

BENCHMARK = Benchmark(
    name="own-model",
    question="does a model of a user's own train and grow, and does `check` see where?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "sees nothing",
            "`check` finds no site in any model",
            lambda: run_in_every_python(_NO_SITE),
            fails=("models whose sites *",),
        ),
        Mutant(
            "never plants",
            "what is to germinate in a run does not",
            lambda: run_in_every_python(_NEVER_PLANTS),
            fails=("models that `up` does not *",),
        ),
    ),
)
