"""What a study's runs say: each arm's scores and costs, and the answers to what was asked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from esper_async.study.cell import CellResult
from esper_async.study.conduct import Findings
from esper_async.study.plan import ComparisonPlan, Setting
from esper_async.study.statistics import (
    Estimate,
    bootstrap_interval,
    interquartile_mean,
    paired_bootstrap,
    probability_of_improvement,
)

EVERY_TASK = "all tasks"


@dataclass(frozen=True, slots=True)
class ArmRow:
    """An arm on a task: the interquartile mean of its scores, and what its runs cost on average.

    `score` is None where fewer than two runs have one. MACs are in all: of the host, of shadow
    passes, of measuring candidates and of twins; `culled_share` is that of shadow passes which
    trained what was not kept. `helped` counts the seeds whose benefit against their twin lay above
    0 with its whole interval, of those `judged` by it.
    """

    task: str
    arm: str
    setting: Setting | None
    score: Estimate | None
    runs: int
    diverged: int
    parameters: float
    total_macs: float
    shadow_share: float
    judging_share: float
    twin_share: float
    culled_share: float
    planted: float
    kept: float
    judged: int
    helped: int
    steps: float
    wall_s: float
    peak_memory_bytes: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a comparison, on one task or over all: improvements are positive.

    `difference` is that of the interquartile means, with its stratified paired bootstrap interval;
    `chance` is how likely a run of one beats one of the other; `parameters` how many times the
    parameters of the control the treated ends with, on average. They are None where they could not
    be measured, as `reason` says.
    """

    asked: ComparisonPlan
    task: str
    difference: Estimate | None
    chance: Estimate | None
    parameters: float | None = None
    reason: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the rule that was fixed beforehand is met; None: not measured."""
        if self.difference is None or self.parameters is None:
            return None
        asked = self.asked
        found = self.difference.value if asked.by == "value" else self.difference.low
        gains = found > asked.more_than
        if asked.most_parameters is not None and self.parameters > asked.most_parameters:
            return False
        return not gains if asked.by == "no gain" else gains


def arm_rows(findings: Findings) -> list[ArmRow]:
    """Return a row for each arm on each task, in the order of the plan."""
    plan = findings.plan
    return [_arm_row(findings, task, arm) for task in plan.tasks for arm in plan.arms]


def answers(findings: Findings) -> list[Answer]:
    """Return what came of each comparison: on every task, and where there are several, over all."""
    tasks = list(findings.plan.tasks)
    found = []
    for asked in findings.plan.comparisons:
        found += [_answer(findings, asked, task, [task]) for task in asked.tasks or tasks]
        if len(tasks) > 1 and not asked.tasks:
            found.append(_answer(findings, asked, EVERY_TASK, tasks))
    return found


def scores(findings: Findings, task: str, arm: str) -> list[float | None]:
    """Return the primary metric of each run, in points where the plan says percent.

    One that diverged is None where less is better, and nought otherwise; one that failed is None.
    """
    return [_score(findings, result) for result in findings.of(task, arm)]


def _score(findings: Findings, result: CellResult | None) -> float | None:
    if result is None:
        return None
    factor = 100.0 if findings.plan.percent else 1.0
    if result.score is None or not np.isfinite(result.score):
        return 0.0 if findings.plan.larger_is_better else None
    return factor * result.score


def _arm_row(findings: Findings, task: str, arm: str) -> ArmRow:
    ran = [result for result in findings.of(task, arm) if result is not None]
    known = [each for each in scores(findings, task, arm) if each is not None]

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values)) if values else float("nan")

    total = mean([each.total_macs for each in ran])
    judged = [benefit for each in ran for benefit in each.benefits]

    def share(values: Sequence[float]) -> float:
        return mean(values) / total if total else 0.0

    return ArmRow(
        task=task,
        arm=arm,
        setting=findings.settings.get((task, arm)),
        score=_interval(findings, known),
        runs=len(ran),
        diverged=sum(each.score is None for each in ran),
        parameters=mean([each.parameters for each in ran]),
        total_macs=total,
        shadow_share=share([each.shadow_macs for each in ran]),
        judging_share=share([each.judging_macs for each in ran]),
        twin_share=share([each.twin_macs for each in ran]),
        culled_share=share([each.culled_macs for each in ran]),
        planted=mean([sum(count for _, count in each.planted) for each in ran]),
        kept=mean([len(each.kept) for each in ran]),
        judged=len(judged),
        helped=sum((each["low"] or 0.0) > 0.0 for each in judged),
        steps=mean([each.steps for each in ran]),
        wall_s=mean([each.wall_s for each in ran]),
        peak_memory_bytes=mean([each.peak_memory_bytes for each in ran]),
    )


def _interval(findings: Findings, known: Sequence[float]) -> Estimate | None:
    if len(known) < 2:
        return None
    return bootstrap_interval([known], interquartile_mean, resamples=findings.plan.resamples)


def _answer(findings: Findings, asked: ComparisonPlan, name: str, tasks: Sequence[str]) -> Answer:
    sign = 1.0 if findings.plan.larger_is_better else -1.0
    treated, control = [], []
    for task in tasks:
        pairs = zip(
            scores(findings, task, asked.treated),
            scores(findings, task, asked.control),
            strict=True,
        )
        whole = [(a, b) for a, b in pairs if a is not None and b is not None]
        if len(whole) < findings.plan.seeds:
            absent = findings.plan.seeds - len(whole)
            reason = f"{absent} pairs on {task} have no result"
            return Answer(asked, name, None, None, reason=reason)
        treated.append([sign * a for a, _ in whole])
        control.append([sign * b for _, b in whole])
    resamples = findings.plan.resamples
    return Answer(
        asked,
        name,
        paired_bootstrap(treated, control, resamples=resamples),
        probability_of_improvement(treated, control, resamples=resamples),
        float(np.mean([_times_parameters(findings, asked, task) for task in tasks])),
    )


def _times_parameters(findings: Findings, asked: ComparisonPlan, task: str) -> float:
    """Return how many times the control's parameters the treated has on average."""
    pairs = zip(findings.of(task, asked.treated), findings.of(task, asked.control), strict=True)
    whole = [(a, b) for a, b in pairs if a is not None and b is not None]
    return float(np.mean([a.parameters / b.parameters for a, b in whole]))
