"""Conducting a study: rates are tuned, then every arm is measured on the same seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from esper_async.study.cell import Cell, CellResult, Reference
from esper_async.study.plan import REFERENCED, StudyPlan
from esper_async.study.pool import Pool

Place = tuple[str, str]
"""The name of a task and of an arm."""


@dataclass(slots=True)
class Findings:
    """What came of a study: the rate of each arm on each task, and every run that was measured."""

    plan: StudyPlan
    code: str
    rates: dict[Place, float] = field(default_factory=dict)
    runs: dict[tuple[str, str, int], CellResult] = field(default_factory=dict)
    tuning: dict[tuple[str, str, float], float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def of(self, task: str, arm: str) -> list[CellResult | None]:
        """The runs of an arm on a task, in the order of the seeds; None where one failed."""
        return [self.runs.get((task, arm, seed)) for seed in self.plan.seeds_of_runs]


class Conductor:
    """Runs a plan through a pool, part after part: what leans on other arms' runs comes behind."""

    def __init__(self, plan: StudyPlan, pool: Pool, code: str) -> None:
        self._plan = plan
        self._pool = pool
        self.findings = Findings(plan, code)
        self._tuned: dict[tuple[str, str, float, int], CellResult] = {}

    async def run(self) -> Findings:
        """Tune and measure everything that is not known yet."""
        alone = [place for place in self._places() if not self._leans(place)]
        leaning = [place for place in self._places() if self._leans(place)]
        await self._run(self._tuning(alone))
        self._choose(alone)
        await self._run([*self._tuning(leaning), *self._measured(alone)])
        self._choose(leaning)
        await self._run(self._measured(leaning))
        return self.findings

    def _places(self) -> list[Place]:
        return [(task, arm) for task in self._plan.tasks for arm in self._plan.arms]

    def _leans(self, place: Place) -> bool:
        return self._plan.arms[place[1]].kind in REFERENCED

    def _tuning(self, places: Sequence[Place]) -> list[Cell]:
        """The cells that choose rates, and those that arms with several rates lean on."""
        wanted = {place for place in places if len(self._plan.rates_of(place[1])) > 1}
        wanted |= {
            (task, self._plan.arms[arm].than)
            for task, arm in self._places()
            if self._leans((task, arm)) and len(self._plan.rates_of(arm)) > 1
        } & set(places)
        cells = [
            self._cell(place, rate, seed, tunes=True)
            for place in places
            if place in wanted
            for rate in self._plan.rates_of(place[1])
            for seed in self._plan.tuning.seeds
        ]
        return [cell for cell in cells if cell is not None]

    def _measured(self, places: Sequence[Place]) -> list[Cell]:
        cells = [
            self._cell(place, self.findings.rates[place], seed, tunes=False)
            for place in places
            if place in self.findings.rates
            for seed in self._plan.seeds_of_runs
        ]
        return [cell for cell in cells if cell is not None]

    def _cell(self, place: Place, rate: float, seed: int, *, tunes: bool) -> Cell | None:
        task, arm = place
        reference = None
        if self._leans(place):
            reference = self._reference(place, seed, tunes=tunes)
            if reference is None:
                than = self._plan.arms[arm].than
                self.findings.failures[f"{arm} on {task}, seed {seed}"] = (
                    f"it leans on {than}, whose run with this seed has no result"
                )
                return None
        return Cell(
            task_name=task,
            arm_name=arm,
            task=self._plan.tasks[task].model_dump(mode="json"),
            arm=self._plan.arms[arm].model_dump(mode="json", exclude={"rates", "than"}),
            primary=self._plan.primary,
            rate=rate,
            seed=seed,
            tunes=tunes,
            reference=reference,
        )

    def _reference(self, place: Place, seed: int, *, tunes: bool) -> Reference | None:
        task, than = place[0], self._plan.arms[place[1]].than
        if tunes:
            rate = self.findings.rates.get((task, than))
            found = None if rate is None else self._tuned.get((task, than, rate, seed))
        else:
            found = self.findings.runs.get((task, than, seed))
        return None if found is None or found.score is None else found.reference

    async def _run(self, cells: Sequence[Cell]) -> None:
        for cell, result in zip(cells, await self._pool.run(cells), strict=True):
            if result is None:
                continue
            if cell.tunes:
                self._tuned[cell.task_name, cell.arm_name, cell.rate, cell.seed] = result
            else:
                self.findings.runs[cell.task_name, cell.arm_name, cell.seed] = result

    def _choose(self, places: Sequence[Place]) -> None:
        """Take each arm's rate with the best mean score on the decision split."""
        for task, arm in places:
            rates = self._plan.rates_of(arm)
            if len(rates) == 1:
                self.findings.rates[task, arm] = rates[0]
                continue
            means = {rate: self._mean(task, arm, rate) for rate in rates}
            self.findings.tuning |= {(task, arm, rate): mean for rate, mean in means.items()}
            if np.isfinite(list(means.values())).any():
                better = 1.0 if self._plan.larger_is_better else -1.0
                self.findings.rates[task, arm] = max(
                    rates, key=lambda rate: float(np.nan_to_num(better * means[rate], nan=-np.inf))
                )
            else:
                self.findings.failures[f"{arm} on {task}"] = "it diverged at every rate"

    def _mean(self, task: str, arm: str, rate: float) -> float:
        """The mean over tuning seeds; not a number where one diverged or failed."""
        found = [self._tuned.get((task, arm, rate, seed)) for seed in self._plan.tuning.seeds]
        scores = [each.score for each in found if each is not None and each.score is not None]
        return float(np.mean(scores)) if len(scores) == len(found) else float("nan")
