"""The honest table at the end of a run: this run, the host alone, and a net of the final size.

Intervals are over the test samples of this one run; they say nothing about other runs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from esper_async.kasmina.evaluation import Evaluation
from esper_async.kasmina.kernels import build_kernel
from esper_async.kasmina.kernels.graft import Graft, attach
from esper_async.kasmina.seed import Seed
from esper_async.tolaria.control import Announced, Control
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.outcome import Outcome, parameters_of
from esper_async.tolaria.task import Task
from esper_async.tolaria.training import count_boundaries

ONE_RUN = "One run is not evidence: intervals are over test samples, not over runs."
_Z_95 = 1.959963984540054


class ComparisonInterrupted(Exception):  # noqa: N818 - an interruption is no error
    """The baselines were not trained to their end; `state` says what was asked for."""

    def __init__(self, state: str) -> None:
        super().__init__(f"the comparison was {state}")
        self.state = state


@dataclass(frozen=True, slots=True)
class Score:
    """A mean over test samples with its 95 % interval (normal), and what was averaged."""

    metric: str
    mean: float
    low: float
    high: float
    n: int


def score_of(task: Task, evaluation: Evaluation) -> Score:
    """Return the task's primary metric on a split, or the loss where it has none."""
    name = task.primary_metric
    values = evaluation.losses if name is None else evaluation.values[name]
    count = values.numel()
    mean = evaluation.loss if name is None else evaluation.metrics[name]
    half = _Z_95 * float(values.double().std()) / math.sqrt(count) if count > 1 else math.inf
    return Score(name or "loss", mean, mean - half, mean + half, count)


def compare(
    task: Task,
    outcome: Outcome,
    options: RunOptions,
    fresh_task: Callable[[], Task],
    *,
    control: Control | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of the table; the two baselines are trained now, on the run's schedule.

    `fresh_task` gives the task as it was before the run. A task without a test split, and a run
    that kept no seed, leave the rows out that would say nothing.

    Raises:
        ComparisonInterrupted: `control` asked to stop or to drain in the middle of it.
    """
    if outcome.test is None:
        return []
    grown = parameters_of(outcome.grower.model)
    rows = [_row("this run", task, outcome, grown)]
    still = replace(options, policy="static", baselines=False)
    alone = fresh_task()
    baseline = _train(alone, still, control, "the host alone")
    rows.append(_row("the same host, not growing", alone, baseline, parameters_of(alone.model)))
    executor = outcome.grower.executor
    kept = [] if executor is None else executor.kept
    if kept and baseline.test is not None:
        final = fresh_task()
        plant_from_scratch(final.model, kept, seed=options.seed)
        whole = _train(final, still, control, "the final net from scratch")
        rows.append(_row("the final net, from scratch", final, whole, parameters_of(final.model)))
    return rows


def _train(task: Task, options: RunOptions, control: Control | None, what: str) -> Outcome:
    if control is not None:
        control = Announced(control, f"comparing: {what}", count_boundaries(task, options))
    outcome = Engine(task, options, control=control).run()
    if outcome.state != "completed":
        raise ComparisonInterrupted(outcome.state)
    return outcome


def plant_from_scratch(model: torch.nn.Module, kept: Sequence[Seed], *, seed: int) -> None:
    """Give a fresh host the kept seeds' kernels, newly initialised and fully on."""
    for number, planted in enumerate(kept, start=1):
        kernel = build_kernel(
            planted.candidate.blueprint,
            planted.site.interface,
            planted.candidate.parameters,
            seed=seed * 1000 + 900 + number,
        )
        graft = Graft(
            kernel,
            form=planted.graft.form,
            mode=planted.graft.mode,
            channels=planted.site.interface.channels,
        )
        graft.set_alpha(1.0)
        attach(model.get_submodule(planted.site.path), graft, planted.attribute)


def _row(name: str, task: Task, outcome: Outcome, parameters: int) -> dict[str, Any]:
    assert outcome.test is not None
    score = score_of(task, outcome.test)
    return {
        "name": name,
        "metric": score.metric,
        "value": score.mean,
        "low": score.low,
        "high": score.high,
        "n": score.n,
        "parameters": parameters,
        "wall_s": outcome.wall_s,
        "macs": sum(outcome.compute.values()),
    }
