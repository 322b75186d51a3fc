"""Running one cell: an arm on a task with a rate and a seed, trained to its end in this process."""

import dataclasses
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from esper_async.kasmina.evaluation import SampleLoss
from esper_async.kasmina.legal import CertificateStore
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Seed
from esper_async.runtime.import_path import append_working_directory
from esper_async.study.ablations import ABLATIONS
from esper_async.study.cell import Cell, CellResult, Reference
from esper_async.study.matched import MatchedPolicy
from esper_async.study.metering import shadow_macs_by_seed
from esper_async.study.oracle import Oracle
from esper_async.study.plan import REFERENCED
from esper_async.study.replanting import kept_record, replant
from esper_async.study.shuffled_labels import with_shuffled_labels
from esper_async.study.sizing import MakeTask, macs_an_epoch, nearest_width, parameters
from esper_async.study.timing import StalledPolicy
from esper_async.tamiyo.policies import Policy, make_policy
from esper_async.tamiyo.policies.from_document import policy_of
from esper_async.tamiyo.shipped import LEARNED
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.global_random import seed_everything
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.outcome import Outcome, parameters_of
from esper_async.tolaria.run_journal import Listener
from esper_async.tolaria.task import Task
from esper_async.tolaria.task_source import load_task
from esper_async.tolaria.training import LossError

_TOLD = ("boundary", "seed", "site", "blueprint", "from_stage", "to_stage")


def run_cell(
    cell: Cell,
    store: CertificateStore | None,
    *,
    run_id: str = "run",
    listener: Listener | None = None,
) -> CellResult:
    """Train a cell once, on one torch thread; `listener` is told every record of the run.

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
        run_id=run_id,
        listener=listener,
        certificates=store,
        blueprints=list(cell.arm["blueprints"]) or None,
        policy=_policy(cell),
    )
    try:
        with closing(engine), ABLATIONS[cell.arm["ablation"]](), shadow_macs_by_seed() as spent:
            outcome = engine.run()
    except LossError as error:
        return _diverged(str(error), task, epochs, time.perf_counter() - began)
    return _result(cell, task, outcome, spent, epochs, chosen, time.perf_counter() - began)


def _prepared(cell: Cell) -> tuple[Task, int, dict[str, Any]]:
    """Return the task of a cell, for how many epochs, and what was chosen to get there."""
    kind, epochs = cell.arm["kind"], int(cell.task["epochs"])
    chosen: dict[str, Any] = {}
    if kind in REFERENCED and cell.reference is None:
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
    given = {**cell.task["options"], cell.task["rate_option"]: cell.setting.rate, **options}
    if cell.setting.schedule:
        given[cell.task["schedule_option"]] = cell.setting.schedule
    task = load_task(cell.task["task"], given, seed=cell.seed)
    return with_shuffled_labels(task, seed=cell.seed) if _is_null(cell) else task


def _is_null(cell: Cell) -> bool:
    return bool(cell.task["labels"] == "shuffled")


def _at_width(cell: Cell) -> MakeTask:
    return lambda width: _make(cell, **{cell.task["width"]: width})


def _policy_name(arm: Mapping[str, Any]) -> str:
    return str(arm["policy"]) if arm["kind"] in ("run", "longer") else "static"


def _policy(cell: Cell) -> Policy | None:
    """Return a policy that only a study has; None where a run makes its own by its name."""
    seed = cell.seed if cell.setting.draw is None else cell.setting.draw
    if cell.arm["kind"] == "planted":
        return Oracle(cell.arm["plantings"])
    if cell.arm["kind"] == "matched" and cell.reference is not None:
        return MatchedPolicy(seed, cell.reference.planted)
    if _policy_name(cell.arm) == StalledPolicy.name:
        return StalledPolicy(seed)
    if _policy_name(cell.arm) == LEARNED:
        return policy_of(cell.arm["learned"], seed)
    return None if cell.setting.draw is None else make_policy(_policy_name(cell.arm), seed)


def _result(
    cell: Cell,
    task: Task,
    outcome: Outcome,
    spent: Mapping[str, float],
    epochs: int,
    chosen: Mapping[str, Any],
    wall_s: float,
) -> CellResult:
    executor = outcome.grower.executor
    seeds = [] if executor is None else list(executor.seeds.values())
    kept = [] if executor is None else executor.kept
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
        judging_macs=outcome.compute["judging_macs"],
        twin_macs=outcome.compute["twin_macs"],
        culled_macs=sum(spent.values()) - sum(spent.get(seed.id, 0.0) for seed in kept),
        wall_s=wall_s,
        peak_memory_bytes=_peak_memory_bytes(),
        history=tuple(_plain(entry) for entry in outcome.history),
        transitions=tuple({name: each.get(name) for name in _TOLD} for each in outcome.transitions),
        kept=tuple(map(kept_record, kept)),
        benefits=tuple(_benefit(seed) for seed in seeds if seed.benefit_vs_twin is not None),
        loss_in_nats=SampleLoss(task.loss).in_nats,
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
        judging_macs=0.0,
        twin_macs=0.0,
        culled_macs=0.0,
        wall_s=wall_s,
        peak_memory_bytes=_peak_memory_bytes(),
        failure=why,
    )


def _benefit(seed: Seed) -> dict[str, Any]:
    assert seed.benefit_vs_twin is not None
    about = {"seed": seed.id, "site": seed.site.name, "blueprint": seed.candidate.blueprint}
    return {**about, "stage": seed.stage.name, **seed.benefit_vs_twin.to_json()}


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
