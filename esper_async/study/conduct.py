"""Conducting a study: settings are tuned, then every arm is measured on the same seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from esper_async.study.cell import Cell, CellResult, Reference
from esper_async.study.plan import REFERENCED, ArmPlan, Setting, StudyPlan
from esper_async.study.pool import Pool
from esper_async.tamiyo.shipped import LEARNED, shipped_document

_SETTLED = {"rates", "schedules", "draws", "than"}
"""What of an arm's plan is no part of a run: the run has what was chosen."""
Place = tuple[str, str]
"""The name of a task and of an arm."""


def arm_content(arm: ArmPlan, learned: Mapping[str, Any]) -> dict[str, Any]:
    """Return all of an arm that its runs depend on; of `learned`, what it decides by, too."""
    content = arm.model_dump(mode="json", exclude=_SETTLED)
    if arm.policy == LEARNED:
        content["learned"] = {key: learned[key] for key in learned if key != "lineage"}
    return content


@dataclass(slots=True)
class Findings:
    """What came of a study: each arm's setting on each task, and every run that was measured."""

    plan: StudyPlan
    code: str
    settings: dict[Place, Setting] = field(default_factory=dict)
    runs: dict[tuple[str, str, int], CellResult] = field(default_factory=dict)
    tuning: dict[tuple[str, str, Setting], float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def of(self, task: str, arm: str) -> list[CellResult | None]:
        """The runs of an arm on a task, in the order of the seeds; None where one failed."""
        return [self.runs.get((task, arm, seed)) for seed in self.plan.seeds_of_runs]


class Conductor:
    """Runs a plan through a pool, part after part: what leans on other arms' runs comes behind.

    `learned` is the document that arms of the policy of this name decide by; default: the shipped.
    """

    def __init__(
        self,
        plan: StudyPlan,
        pool: Pool,
        code: str,
        *,
        learned: Mapping[str, Any] | None = None,
    ) -> None:
        self._plan = plan
        self._learned = learned or shipped_document()
        self._pool = pool
        self.findings = Findings(plan, code)
        self._tuned: dict[tuple[str, str, Setting, int], CellResult] = {}

    async def run(self) -> Findings:
        """Tune and measure everything that is not known yet."""
        alone = [place for place in self._places() if not self._leans(place)]
        leaning = [place for place in self._places() if self._leans(place)]
        await self._run(self._tuning(alone))
        self._choose(alone)
        await self._run(self._drawing(alone))
        self._choose_draws(alone)
        await self._run([*self._tuning(leaning), *self._measured(alone)])
        self._choose(leaning)
        await self._run(self._measured(leaning))
        return self.findings

    def _places(self) -> list[Place]:
        return [(task, arm) for task in self._plan.tasks for arm in self._plan.arms]

    def _leans(self, place: Place) -> bool:
        return self._plan.arms[place[1]].kind in REFERENCED

    def _tuning(self, places: Sequence[Place]) -> list[Cell]:
        """The cells that choose settings, and those that arms with several settings lean on."""
        wanted = {place for place in places if len(self._plan.settings_of(place[1])) > 1}
        wanted |= {
            (task, self._plan.arms[arm].than)
            for task, arm in self._places()
            if self._leans((task, arm)) and self._plan.is_tuned(arm)
        } & set(places)
        settings = self._plan.settings_of
        return self._tried({place: settings(place[1]) for place in places if place in wanted})

    def _drawing(self, places: Sequence[Place]) -> list[Cell]:
        """The cells that choose draws, at the settings that were chosen before."""
        return self._tried({place: self._draws(place) for place in places})

    def _draws(self, place: Place) -> tuple[Setting, ...]:
        chosen = self.findings.settings.get(place)
        return () if chosen is None else self._plan.draws_of(place[1], chosen)

    def _tried(self, settings: Mapping[Place, Sequence[Setting]]) -> list[Cell]:
        cells = [
            self._cell(place, setting, seed, tunes=True)
            for place, tried in settings.items()
            for setting in tried
            for seed in self._plan.tuning.seeds
        ]
        return [cell for cell in cells if cell is not None]

    def _measured(self, places: Sequence[Place]) -> list[Cell]:
        cells = [
            self._cell(place, self.findings.settings[place], seed, tunes=False)
            for place in places
            if place in self.findings.settings
            for seed in self._plan.seeds_of_runs
        ]
        return [cell for cell in cells if cell is not None]

    def _cell(self, place: Place, setting: Setting, seed: int, *, tunes: bool) -> Cell | None:
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
            arm=arm_content(self._plan.arms[arm], self._learned),
            primary=self._plan.primary,
            setting=setting,
            seed=seed,
            tunes=tunes,
            reference=reference,
        )

    def _reference(self, place: Place, seed: int, *, tunes: bool) -> Reference | None:
        task, than = place[0], self._plan.arms[place[1]].than
        if tunes:
            setting = self.findings.settings.get((task, than))
            found = None if setting is None else self._tuned.get((task, than, setting, seed))
        else:
            found = self.findings.runs.get((task, than, seed))
        return None if found is None or found.score is None else found.reference

    async def _run(self, cells: Sequence[Cell]) -> None:
        for cell, result in zip(cells, await self._pool.run(cells), strict=True):
            if result is None:
                continue
            if cell.tunes:
                self._tuned[cell.task_name, cell.arm_name, cell.setting, cell.seed] = result
            else:
                self.findings.runs[cell.task_name, cell.arm_name, cell.seed] = result

    def _choose(self, places: Sequence[Place]) -> None:
        """Take each arm's setting with the best mean score on the decision split."""
        for place in places:
            self._take_best(place, self._plan.settings_of(place[1]))

    def _choose_draws(self, places: Sequence[Place]) -> None:
        """Of an arm with several draws, take the best of them."""
        for place in places:
            draws = self._draws(place)
            if draws:
                self._take_best(place, draws)

    def _take_best(self, place: Place, settings: Sequence[Setting]) -> None:
        task, arm = place
        if len(settings) == 1:
            self.findings.settings[place] = settings[0]
            return
        means = {setting: self._mean(task, arm, setting) for setting in settings}
        self.findings.tuning |= {(task, arm, tried): mean for tried, mean in means.items()}
        if np.isfinite(list(means.values())).any():
            better = 1.0 if self._plan.larger_is_better else -1.0
            self.findings.settings[place] = max(
                settings, key=lambda tried: float(np.nan_to_num(better * means[tried], nan=-np.inf))
            )
        else:
            self.findings.settings.pop(place, None)
            self.findings.failures[f"{arm} on {task}"] = "it diverged at every setting"

    def _mean(self, task: str, arm: str, setting: Setting) -> float:
        """The mean over tuning seeds; not a number where one diverged or failed."""
        found = [self._tuned.get((task, arm, setting, seed)) for seed in self._plan.tuning.seeds]
        scores = [each.score for each in found if each is not None and each.score is not None]
        return float(np.mean(scores)) if len(scores) == len(found) else float("nan")
