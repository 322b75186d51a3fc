"""Running one cell: an arm on a task with a rate and a seed, trained to its end in this process."""

import dataclasses
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from esper_async.kasmina.legal import CertificateStore
from esper_async.kasmina.options import GrowthOptions
from esper_async.runtime.import_path import append_working_directory
from esper_async.study.ablations import ABLATIONS
from esper_async.study.cell import Cell, CellResult, Reference
from esper_async.study.oracle import Oracle
from esper_async.study.replanting import kept_record, replant
from esper_async.study.sizing import MakeTask, macs_an_epoch, nearest_width, parameters
from esper_async.study.timing import StalledPolicy
from esper_async.tamiyo.policies import Policy
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.global_random import seed_everything
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.outcome import Outcome, parameters_of
from esper_async.tolaria.task import Task
from esper_async.tolaria.task_source import load_task
from esper_async.tolaria.training import LossError

_TOLD = ("boundary", "seed", "site", "blueprint", "from_stage", "to_stage")


def run_cell(cell: Cell, store: CertificateStore | None) -> CellResult:
    """Train a cell once, on one torch thread.

    Raises:
        TaskError, ValueError, ...: what `Engine` raises for a task that cannot be trained. A run
            that diverges raises nothing: it has no score.
    """
    append_working_directory()
    began = time.perf_counter()
    _forget_peak_memory()
    task, epochs, chosen = _prepared(cell)
    options = RunOptions(
        epochs=epochs,
        policy=_policy_name(cell.arm),
        seed=cell.seed,
        name=cell.label,
        threads=1,
        growth=GrowthOptions.of(cell.arm["growth"]),
    )
    engine = Engine(
        task,
        options,
        certificates=store,
        blueprints=list(cell.arm["blueprints"]) or None,
        policy=_policy(cell),
    )
    try:
        with closing(engine), ABLATIONS[cell.arm["ablation"]]():
            outcome = engine.run()
    except LossError as error:
        return _diverged(str(error), task, epochs, time.perf_counter() - began)
    return _result(cell, outcome, epochs, chosen, time.perf_counter() - began)


def _prepared(cell: Cell) -> tuple[Task, int, dict[str, Any]]:
    """Return the task of a cell, for how many epochs, and what was chosen to get there."""
    kind, epochs = cell.arm["kind"], int(cell.task["epochs"])
    chosen: dict[str, Any] = {}
    if kind in ("longer", "wide", "costly", "scratch") and cell.reference is None:
        raise ValueError(f"a cell of kind {kind!r} without its reference")
    reference = cell.reference or Reference(0, 0.0)
    if kind == "longer":
        epochs = max(1, round(reference.total_macs / macs_an_epoch(_make(cell))))
        chosen["epochs"] = epochs
    elif kind in ("wide", "costly"):
        wanted = reference.parameters if kind == "wide" else reference.total_macs / epochs
        measure = parameters if kind == "wide" else macs_an_epoch
        found = nearest_width(_at_width(cell), measure, wanted, widest=int(cell.task["widest"]))
        chosen[cell.task["width"]] = found.width
    options = {key: value for key, value in chosen.items() if key != "epochs"}
    task = _make(cell, **options)
    if kind == "scratch":
        replant(task.model, reference.kept, seed=cell.seed)
    if cell.tunes:
        task = dataclasses.replace(task, test_loader=None)
    return task, epochs, chosen


def _make(cell: Cell, **options: Any) -> Task:
    seed_everything(cell.seed)
    given = {**cell.task["options"], cell.task["rate_option"]: cell.rate, **options}
    return load_task(cell.task["task"], given, seed=cell.seed)


def _at_width(cell: Cell) -> MakeTask:
    return lambda width: _make(cell, **{cell.task["width"]: width})


def _policy_name(arm: Mapping[str, Any]) -> str:
    return str(arm["policy"]) if arm["kind"] == "run" else "static"


def _policy(cell: Cell) -> Policy | None:
    """Return a policy that only a study has; None where a run makes its own by its name."""
    if cell.arm["kind"] == "planted":
        return Oracle(cell.arm["plantings"])
    if _policy_name(cell.arm) == StalledPolicy.name:
        return StalledPolicy(cell.seed)
    return None


def _result(
    cell: Cell, outcome: Outcome, epochs: int, chosen: Mapping[str, Any], wall_s: float
) -> CellResult:
    executor = outcome.grower.executor
    validation = float(outcome.history[-1][f"validation_{cell.primary}"])
    score: float | None = validation
    if not cell.tunes:
        if outcome.test is None:
            raise ValueError(f"{cell.task_name} has no test split: a study judges by one")
        metrics = {"loss": outcome.test.loss, **outcome.test.metrics}
        score = float(metrics[cell.primary])
    return CellResult(
        score=score,
        validation=validation,
        parameters=parameters_of(outcome.grower.model),
        epochs=epochs,
        steps=int(outcome.history[-1]["step"]),
        host_macs=outcome.compute["host_macs"],
        shadow_macs=outcome.compute["shadow_macs"],
        twin_macs=outcome.compute["twin_macs"],
        wall_s=wall_s,
        peak_memory_bytes=_peak_memory_bytes(),
        history=tuple(_plain(entry) for entry in outcome.history),
        transitions=tuple({name: each.get(name) for name in _TOLD} for each in outcome.transitions),
        kept=() if executor is None else tuple(map(kept_record, executor.kept)),
        options=dict(chosen),
    )


def _diverged(why: str, task: Task, epochs: int, wall_s: float) -> CellResult:
    return CellResult(
        score=None,
        validation=None,
        parameters=parameters_of(task.model),
        epochs=epochs,
        steps=0,
        host_macs=0.0,
        shadow_macs=0.0,
        twin_macs=0.0,
        wall_s=wall_s,
        peak_memory_bytes=_peak_memory_bytes(),
        failure=why,
    )


def _plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: float(value) if isinstance(value, float) else value
        for name, value in entry.items()
        if isinstance(value, int | float)
    }


def _forget_peak_memory() -> None:
    """Have the kernel count this process's largest resident size anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_memory_bytes() -> int:
    """The largest resident size since it was forgotten; 0 where the kernel does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
