"""A paired replay: fresh runs under what was learned, beside runs of the same seeds without it.

The runs are those of a collection: made in child processes, kept by content, with what they decided
and were told, so that an estimate of what a decision earns can be held against the truth.
"""

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from esper_async.simic.learn import planted
from esper_async.simic.store import UNBOUNDED, ExperienceStore
from esper_async.simic.trials import trials_from
from esper_async.study.cell import Cell, CellResult
from esper_async.study.collect.haul import CollectedLedger
from esper_async.study.conduct import arm_content
from esper_async.study.gate.plan import GatePlan
from esper_async.study.ledger import code_fingerprint
from esper_async.study.plan import ArmPlan, Setting
from esper_async.study.pool import Pool, Tally, worker_spec
from esper_async.study.statistics import (
    Estimate,
    paired_bootstrap,
    probability_of_improvement,
)
from esper_async.tamiyo.shipped import LEARNED

_WORKER = "esper_async.study.collect.worker:work"
_ARMS = ("new", "active")


@dataclass(frozen=True, slots=True)
class Pair:
    """The scores of two runs that differ in their policy alone; None: one has no result."""

    task: str
    seed: int
    new: float | None
    active: float | None


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found.

    Attributes:
        pairs: every run's score on the decision split.
        difference: of interquartile means, new above active in the direction that is better, with
            its 95 % interval over runs; None where a pair has no result.
        chance: how likely a run under the new policy beats one under the active.
        reward: by how much more a decision earned under the new policy, by today's formula.
        failures: runs without a result, in words, with the reason.
    """

    pairs: tuple[Pair, ...]
    difference: Estimate | None
    chance: Estimate | None
    reward: float | None
    failures: Mapping[str, str]

    @property
    def no_worse(self) -> bool:
        """Whether the lower end of the interval is not below 0."""
        return self.difference is not None and self.difference.low >= 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "pairs": [asdict(pair) for pair in self.pairs]}


def run_replay(
    plan: GatePlan,
    new: Mapping[str, Any],
    active: Mapping[str, Any],
    root: Path,
    *,
    workers: int | None = None,
    nice: int = 10,
    tell: Callable[[str], None],
) -> Replay:
    """Make the runs that are not known yet under `root`, and compare them; on the main thread.

    What was interrupted goes on from there.

    Args:
        plan: tasks, seeds, metric.
        new: the document of the policy that is judged.
        active: that of the policy which it is compared with.
        root: where the runs are kept.
        workers: runs at a time; default: one a core.
        nice: the priority of the workers.
        tell: is given a line after each run.

    Raises:
        OSError, sqlite3.Error: the disk refused.
    """
    code, tally = code_fingerprint(), Tally()
    ledger = CollectedLedger(root / "cells", code)
    spec = replace(worker_spec(root, code, nice=nice), name="replay", target=_WORKER)
    pool = Pool(ledger, spec, workers=workers or os.cpu_count() or 1, tell=tell, tally=tally)
    cells = replayed_cells(plan, new, active)
    results = anyio.run(pool.run, cells)
    return _seen(plan, list(zip(cells, results, strict=True)), ledger, tally)


def replayed_cells(plan: GatePlan, new: Mapping[str, Any], active: Mapping[str, Any]) -> list[Cell]:
    """Return the runs of a replay, the two of a pair one behind the other."""
    arm = ArmPlan(policy=LEARNED, growth=plan.growth, blueprints=plan.blueprints)
    return [
        Cell(
            task_name=name,
            arm_name=side,
            task=task.model_dump(mode="json", exclude={"rate"}),
            arm=arm_content(arm, document),
            primary=plan.primary,
            setting=Setting(task.rate),
            seed=seed,
            tunes=True,  # the test split is for judging, and publishing is a decision
        )
        for seed in plan.seeds
        for name, task in plan.tasks.items()
        for side, document in zip(_ARMS, (new, active), strict=True)
    ]


def _seen(
    plan: GatePlan,
    ran: Sequence[tuple[Cell, CellResult | None]],
    ledger: CollectedLedger,
    tally: Tally,
) -> Replay:
    scores = {(cell.task_name, cell.seed, cell.arm_name): score_of(result) for cell, result in ran}
    pairs = [
        Pair(task, seed, scores[task, seed, "new"], scores[task, seed, "active"])
        for task in plan.tasks
        for seed in plan.seeds
    ]
    diverged = {
        cell.label: f"it diverged: {result.failure}"
        for cell, result in ran
        if result is not None and score_of(result) is None
    }
    new, active = (
        _mean_reward(ledger, [cell for cell, _ in ran if cell.arm_name == side]) for side in _ARMS
    )
    reward = None if new is None or active is None else new - active
    return compared(plan, pairs, reward=reward, failures=tally.failures | diverged)


def score_of(result: CellResult | None) -> float | None:
    """Return a run's score; None where it failed or diverged, or its score is no number."""
    if result is None or result.score is None or not math.isfinite(result.score):
        return None
    return result.score


def compared(
    plan: GatePlan,
    pairs: Sequence[Pair],
    *,
    reward: float | None = None,
    failures: Mapping[str, str] | None = None,
) -> Replay:
    """Return what pairs of runs say, each task a stratum; nothing where one has no result."""
    sign = 1.0 if plan.larger_is_better else -1.0
    treated, control = [], []
    for task in plan.tasks:
        whole = [
            (sign * pair.new, sign * pair.active)
            for pair in pairs
            if pair.task == task and pair.new is not None and pair.active is not None
        ]
        if len(whole) < plan.runs:
            return Replay(tuple(pairs), None, None, reward, failures or {})
        treated.append([new for new, _ in whole])
        control.append([active for _, active in whole])
    return Replay(
        tuple(pairs),
        paired_bootstrap(treated, control, resamples=plan.resamples),
        probability_of_improvement(treated, control, resamples=plan.resamples),
        reward,
        failures or {},
    )


def _mean_reward(ledger: CollectedLedger, cells: Sequence[Cell]) -> float | None:
    """Return what a placement earned on average, by today's formula; None without any."""
    with (
        tempfile.TemporaryDirectory(prefix="esper-replay-") as folder,
        closing(
            ExperienceStore(Path(folder) / "x.sqlite", now=lambda: 0.0, bounds=UNBOUNDED)
        ) as store,
    ):
        for cell in cells:
            told = ledger.haul(cell) or []
            run = ledger.run_id(cell)
            store.take_many([(each, f"{run}/{place}") for place, each in enumerate(told)])
        rewards = [trial.reward for trial in trials_from(planted(store)).trials]
    return float(np.mean(rewards)) if rewards else None
