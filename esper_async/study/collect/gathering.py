"""`esper-supervisor collect FILE`: the runs are made, and their experience goes into the store."""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio

from esper_async.simic.registry import learned_document
from esper_async.simic.store import UNBOUNDED, ExperienceStore, Intake, experience_path
from esper_async.study.cell import Cell, CellResult
from esper_async.study.collect.haul import CollectedLedger
from esper_async.study.collect.plan import CollectionPlan, load_collection
from esper_async.study.conduct import arm_content
from esper_async.study.ledger import code_fingerprint
from esper_async.study.plan import ArmPlan, Setting
from esper_async.study.pool import Pool, Tally, worker_spec
from esper_async.study.written_plan import write_plan

_WORKER = "esper_async.study.collect.worker:work"


@dataclass(slots=True)
class Collected:
    """What a collection has come to.

    Attributes:
        plan: what was asked for.
        ran, known: runs that were made now, and that had been made before.
        stored: messages by what became of them in the store.
        diverged: runs that have no end, and so no terminal term.
        failures: runs that have no result, in words, with the reason.
    """

    plan: CollectionPlan
    ran: int = 0
    known: int = 0
    stored: Counter[Intake] = field(default_factory=Counter)
    diverged: int = 0
    failures: dict[str, str] = field(default_factory=dict)


def collect(
    file: Path,
    state_dir: Path,
    *,
    workers: int | None = None,
    nice: int = 10,
    tell: Callable[[str], None],
) -> Collected:
    """As `collect_plan`, of the plan in a file.

    Raises:
        ConfigurationError: the plan is wrong; nothing was run.
        OSError, sqlite3.Error: the disk refused.
    """
    return collect_plan(load_collection(file), state_dir, workers=workers, nice=nice, tell=tell)


def collect_plan(
    plan: CollectionPlan,
    state_dir: Path,
    *,
    workers: int | None = None,
    nice: int = 10,
    tell: Callable[[str], None],
) -> Collected:
    """Make the runs of a collection that are not known yet, and store what they told.

    On the main thread. Runs are kept under `state_dir/collections`, named by all that they depend
    on; what was interrupted goes on from there, and what is stored already is not stored again.
    It may be done beside a supervisor, which sees what was collected when it starts next.

    Raises:
        OSError, sqlite3.Error: the disk refused.
    """
    root = state_dir / "collections"
    folder = write_plan(root, plan)
    tell(f"{plan.name}: plan {plan.hash} is written to {folder / 'plan.json'}")
    code, tally = code_fingerprint(), Tally()
    ledger = CollectedLedger(root / "cells", code)
    spec = replace(worker_spec(root, code, nice=nice), name="collect", target=_WORKER)
    pool = Pool(ledger, spec, workers=workers or os.cpu_count() or 1, tell=tell, tally=tally)
    cells = [*collected_cells(plan, learned_document(state_dir)), *baseline_cells(plan)]
    results = anyio.run(pool.run, cells)
    done = Collected(plan, tally.done - tally.cached, tally.cached, failures=tally.failures)
    with closing(
        ExperienceStore(experience_path(state_dir), now=time.time, bounds=UNBOUNDED)
    ) as store:
        _store(list(zip(cells, results, strict=True)), ledger, store, done)
    return done


def collected_cells(plan: CollectionPlan, learned: Mapping[str, Any]) -> list[Cell]:
    """Return the runs under the plan's policies; `learned` decides by that document."""
    return [
        _cell(plan, task, policy, seed, learned)
        for seed in plan.seeds
        for task in plan.tasks
        for policy in plan.policies
    ]


def baseline_cells(plan: CollectionPlan) -> list[Cell]:
    """Return the runs that do not grow, one for each task and seed."""
    if not plan.baseline:
        return []
    return [_cell(plan, task, "static", seed, {}) for seed in plan.seeds for task in plan.tasks]


def _cell(
    plan: CollectionPlan, task: str, policy: str, seed: int, learned: Mapping[str, Any]
) -> Cell:
    arm = ArmPlan(policy=policy)
    if policy != "static":
        arm = ArmPlan(policy=policy, growth=plan.growth, blueprints=plan.blueprints)
    return Cell(
        task_name=task,
        arm_name=policy,
        task=plan.tasks[task].model_dump(mode="json", exclude={"rate"}),
        arm=arm_content(arm, learned),
        primary="loss",
        setting=Setting(plan.tasks[task].rate),
        seed=seed,
        tunes=True,  # the test split is for judging
    )


def _store(
    results: Sequence[tuple[Cell, CellResult | None]],
    ledger: CollectedLedger,
    store: ExperienceStore,
    done: Collected,
) -> None:
    baselines = {
        (cell.task_name, cell.seed): result for cell, result in results if cell.arm_name == "static"
    }
    for cell, result in results:
        if cell.arm_name == "static" or result is None:
            continue
        done.diverged += result.validation is None
        told = ledger.haul(cell) or []
        named = [(each, f"{ledger.run_id(cell)}/{place}") for place, each in enumerate(told)]
        done.stored.update(store.take_many(named))
        gain = _gain(result, baselines.get((cell.task_name, cell.seed)))
        if gain is not None:
            store.tell_result(ledger.run_id(cell), terminal_gain=gain)


def _gain(grown: CellResult, static: CellResult | None) -> float | None:
    """Return by how much less the loss on the decision split is than without growing.

    In nats; for a loss that has a unit of its own as a share of the loss without growing.
    """
    if static is None or grown.validation is None or static.validation is None:
        return None
    gain = static.validation - grown.validation
    if grown.loss_in_nats:
        return gain
    return gain / abs(static.validation) if static.validation else None
