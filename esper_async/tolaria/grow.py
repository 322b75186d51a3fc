"""`grow`: train and grow a task in this very process, with no server and no bus."""

import copy
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from esper_async.kasmina.options import GrowthOptions
from esper_async.tamiyo.policies import Policy
from esper_async.tolaria.comparison import compare
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.loader_workers import set_workers
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.outcome import Outcome
from esper_async.tolaria.plot import plot_history
from esper_async.tolaria.progress import ProgressLine
from esper_async.tolaria.records import seed_records
from esper_async.tolaria.task import Task
from esper_async.urza import Library


@dataclass(frozen=True, slots=True)
class GrowResult:
    """What `grow` brings back.

    Attributes:
        model: the host with the kept seeds inside, in evaluation mode or not as it was before.
        history: one entry a boundary: metrics by name, parameters, step, epoch.
        seeds: the seeds of the run with gates and quantities, ended ones included; of those that
            are past their reset the newest 256.
        field_reports: what each command brought.
        decisions: what the policy decided at each boundary, and why.
        transitions: every stage change with the gate's numbers. Of reports, decisions and stage
            changes the newest 10 000 each; a run with a folder has all of them in its journal.
        test: the metrics on the test split, read once; empty without one.
        compute: multiply-accumulates of the host, of shadow passes and of twins.
        comparison: rows of the honest table, if baselines were asked for.
        wall_s: seconds the run took.
    """

    model: nn.Module
    history: list[dict[str, Any]]
    seeds: list[dict[str, Any]]
    field_reports: list[dict[str, Any]]
    decisions: list[dict[str, Any]]
    transitions: list[dict[str, Any]]
    test: dict[str, float]
    compute: dict[str, float]
    comparison: list[dict[str, Any]]
    wall_s: float

    def plot(self) -> Any:
        """Return a matplotlib figure of losses and seeds over the run.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return plot_history(self.history, self.transitions)


def grow(
    task: Task,
    *,
    epochs: int,
    policy: str | Policy = "heuristic",
    seed: int = 0,
    state_dir: str | Path | None = ".esper",
    folder: str | Path | None = None,
    progress: bool = True,
    growth: GrowthOptions | Mapping[str, Any] | None = None,
    baselines: bool = False,
    blueprints: list[str] | None = None,
    **options: Any,
) -> GrowResult:
    """Train `task` for `epochs` while a policy grows its model; return the grown model and more.

    The same arguments and seed give the same weights, here and under the supervisor. The caller's
    torch thread count, random states and model mode are left as they were.

    Args:
        task: what to train; its model is trained and grown in place.
        epochs: passes over the training loader.
        policy: a policy's name, or a policy.
        seed: everything random derives from it.
        state_dir: where certificates are kept, so that kernels are proved once; None keeps them
            in memory.
        folder: journal and checkpoints go there, and the run resumes from it; None keeps nothing.
        progress: show a progress line on standard error when it is a terminal.
        growth: limits, schedule and margins.
        baselines: also train the host alone and the final net from scratch, for comparison.
        blueprints: ids to choose from; all of the allowed tiers if None.
        options: further fields of `RunOptions` (device, threads, boundary_every ...).

    Raises:
        TaskError, NoSiteError, BatchError, EmptyLoaderError: the task cannot be trained as it is.
        CompileError: the model cannot be compiled as it was asked for.
        UserCodeError: the task's own code raised; the message says which, and after which step.
        TypeError: an option is not known.
        ValueError: an option's value, a tier or a blueprint is not known.
    """
    if task.name is not None:
        options.setdefault("name", task.name)
    run_options = _options(epochs, policy, seed, growth, baselines, options)
    fresh = _copy_of(task) if baselines else None
    line = ProgressLine(epochs, shown=progress)
    library = None if state_dir is None else Library(Path(state_dir) / "urza", actor="grow")
    try:
        engine = Engine(
            task,
            run_options,
            folder=None if folder is None else Path(folder),
            listener=line.note,
            certificates=library,
            progress=line.certificates,
            blueprints=blueprints,
            policy=None if isinstance(policy, str) else policy,
        )
        with closing(engine):
            outcome = engine.run()
        rows = [] if fresh is None else compare(task, outcome, run_options, fresh)
    finally:
        line.close()
        if library is not None:
            library.close()
    return _result(outcome, rows)


def _options(
    epochs: int,
    policy: str | Policy,
    seed: int,
    growth: GrowthOptions | Mapping[str, Any] | None,
    baselines: bool,
    options: Mapping[str, Any],
) -> RunOptions:
    known = {entry.name for entry in fields(RunOptions)}
    for name in options:
        if name not in known:
            raise TypeError(f"grow() has no option {name!r}; known: {', '.join(sorted(known))}")
    limits = GrowthOptions.of(growth)
    name = policy if isinstance(policy, str) else policy.name
    return RunOptions(
        epochs=epochs, policy=name, seed=seed, growth=limits, baselines=baselines, **options
    )


def _copy_of(task: Task) -> Callable[[], Task]:
    """Keep the task as it is now; each call gives a copy of it."""
    for loader in (task.train_loader, task.validation_loader, task.test_loader):
        set_workers(loader, wanted=False)  # processes cannot be copied
    kept = copy.deepcopy(task)
    return lambda: copy.deepcopy(kept)


def _result(outcome: Outcome, rows: list[dict[str, Any]]) -> GrowResult:
    test: dict[str, float] = {}
    if outcome.test is not None:
        test = {"loss": outcome.test.loss, **outcome.test.metrics}
    return GrowResult(
        model=outcome.grower.model,
        history=outcome.history,
        seeds=seed_records(outcome.grower.executor, ended=True),
        field_reports=outcome.field_reports,
        decisions=outcome.decisions,
        transitions=outcome.transitions,
        test=test,
        compute=outcome.compute,
        comparison=rows,
        wall_s=outcome.wall_s,
    )
