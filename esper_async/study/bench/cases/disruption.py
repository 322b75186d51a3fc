"""Does growing disturb the run? Around every germination, blend and cull, against a static run.

An event's rise is the highest validation loss of the next three boundaries less that at its own. It
is within the noise where it is at most the 95th percentile of what a static host of the same rate
and schedule does at that age, a few boundaries to either side, over all seeds. Germination, and a
cull before the blend, must leave the network bitwise as it is.

A network that has grown has a noise of its own, which is not a static host's: the same is shown
against the boundaries of the same run at which nothing happens.

Training loss, gradient norm and the time of a step around the events are shown beside the static
host's own; so is naive insertion: kernels that are drawn as layers usually are, untrained, and in
the forward pass at full strength at once. A candidate in shadow and a twin take time: a step is
longer while there are any.

The short form has runs in which what is wanted is made to happen soon, with a boundary every 8
steps: a small host gets over almost anything within an epoch. The full form has whole runs as well.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import get_args

import numpy as np

from esper_async.study.bench.all_runs import run_all
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    shown,
    wants,
)
from esper_async.study.bench.disruption_runs import (
    Arm,
    Event,
    Kind,
    Plan,
    Recipe,
    Watched,
    in_the_forward_pass_from_germination,
    taken_out_alone,
    untrained_at_full_strength,
    watch,
)

SEEDS = range(20, 28)
"""Fixed in advance."""
AFTER, AROUND_STEPS, PERCENTILE = 3, 128, 95.0
LEAST_CALM = 4
LEAST_WITHIN = {Effort.SHORT: 0.75, Effort.FULL: 0.9}
"""Even of a static host's own rises one in twenty is over its percentile: few events tell less."""
_QUICK = Recipe("constant", 0.01, 54, boundary_steps=8)
_RECIPES = (Recipe("constant", 0.01, 80, 32), Recipe("cosine", 0.02, 80, 32))
"""With the rates that `growth` finds best for `heuristic`, and a boundary an epoch."""
_DRILLED: Mapping[Arm, range] = {
    "one that helps": range(40, 41),
    "refused": range(40, 42),
    "noise": range(40, 41),
    "static": range(40, 43),
}
"""With the seeds of the short form."""
_SOURCES: Mapping[Kind, tuple[Arm, ...]] = {
    "germination": ("heuristic", "random", "one that helps", "refused"),
    "blend": ("heuristic", "random", "one that helps"),
    "cull in training": ("heuristic", "random", "refused"),
    "cull on trial": ("heuristic", "random", "noise"),
}
"""Runs whose events of a kind are judged: not those in which the gate before it is waived."""


def measure(effort: Effort) -> list[Row]:
    """Watch static and growing runs, and judge every event."""
    runs = run_all(_plans(effort), _watch, effort)
    rows = [_unchanged(kind, runs) for kind in ("germination", "cull in training")]
    for kind in get_args(Kind):
        rows += _around(kind, runs, Bar("at least", LEAST_WITHIN[effort]))
    return rows


def _watch(plan: Plan) -> Watched:
    """Watch a run; a static one only once, as nothing that breaks growing changes it."""
    return _watch_static(plan) if plan.arm == "static" else watch(plan)


@cache
def _watch_static(plan: Plan) -> Watched:
    return watch(plan)


def _plans(effort: Effort) -> list[Plan]:
    if effort is Effort.FULL:
        arms: tuple[Arm, ...] = ("random", "heuristic", "naive", "static")
        whole = [Plan(arm, seed, recipe) for arm in arms for recipe in _RECIPES for seed in SEEDS]
        return whole + [Plan(arm, seed, _QUICK) for arm in _DRILLED for seed in SEEDS]
    wanted = {arm for kind, arms in _SOURCES.items() if wants(*_figures(kind)) for arm in arms}
    return [
        Plan(arm, seed, _QUICK)
        for arm in _DRILLED
        if arm in wanted or arm == "static"
        for seed in _DRILLED[arm]
    ]


def _figures(kind: Kind) -> tuple[str, str]:
    return f"{kind}: network changed at once", f"{kind}: within the noise"


def _unchanged(kind: Kind, runs: Mapping[Plan, Watched]) -> Row:
    told = [
        event.changed
        for plan, run in runs.items()
        if plan.arm != "naive"
        for event in run.events
        if event.kind == kind and event.changed is not None
    ]
    return judged(
        _figures(kind)[0],
        float(sum(told)) if told else float("nan"),
        "events",
        Bar("at most", 0.0),
        note=f"of {len(told)}; bitwise, every tensor and the output for a batch",
    )


def _around(kind: Kind, runs: Mapping[Plan, Watched], bar: Bar) -> list[Row]:
    """Judge the loss around the events of a kind; show the rest, and what naive insertion does."""
    sources = _SOURCES[kind]
    events = list(_events(kind, runs, sources))
    if not events:
        return [judged(_figures(kind)[1], float("nan"), "of events", bar)]
    rises = [_rise(runs[plan].validation, event.boundary) for plan, event in events]
    limits = [_limit(runs, plan, event.boundary, _validation, _rise) for plan, event in events]
    within = float(np.mean(np.array(rises) <= np.array(limits)))
    rows = [
        judged(
            _figures(kind)[1],
            within,
            "of events",
            bar,
            note=f"{len(events)} events; median rise {np.median(rises):+.3f} nats, largest "
            f"{max(rises):+.3f}; a static host's 95th percentile there {np.median(limits):+.3f}",
        )
    ]
    rows += _within_own(kind, events, runs)
    rows += [_beside(kind, name, series, events, runs) for name, series in _SERIES.items()]
    if naive := list(_events(kind, runs, ("naive",))):
        over = [
            _rise(runs[plan].validation, event.boundary)
            <= _limit(runs, plan, event.boundary, _validation, _rise)
            for plan, event in naive
        ]
        rows.append(
            shown(f"{kind}, naive insertion: within the noise", float(np.mean(over)), "of events",
                  note=f"{len(naive)} events")
        )  # fmt: skip
    return rows


def _within_own(
    kind: Kind, events: Sequence[tuple[Plan, Event]], runs: Mapping[Plan, Watched]
) -> list[Row]:
    """Show how many events are within the noise of their own run, where it has calm boundaries."""
    pairs = [
        (_rise(runs[plan].validation, event.boundary), limit)
        for plan, event in events
        if (limit := _own_limit(plan, runs[plan], event.boundary)) is not None
    ]
    if not pairs:
        return []
    return [
        shown(
            f"{kind}: within the run's own noise",
            float(np.mean([rise <= limit for rise, limit in pairs])),
            "of events",
            note=f"{len(pairs)} events; the noise is that of boundaries at which nothing happens",
        )
    ]


def _own_limit(plan: Plan, run: Watched, boundary: int) -> float | None:
    """Return the 95th percentile of a run's own rises about a boundary; None from few of them."""
    around = AROUND_STEPS // plan.recipe.boundary_steps
    # what the three boundaries after it show of an event is no calm noise
    busy = {event.boundary - early for event in run.events for early in range(AFTER)}
    noise = [
        _rise(run.validation, other)
        for other in range(boundary - around, boundary + around + 1)
        if other not in busy and 1 <= other <= len(run.validation) - AFTER
    ]
    return float(np.percentile(noise, PERCENTILE)) if len(noise) >= LEAST_CALM else None


def _beside(
    kind: Kind,
    name: str,
    series: Callable[[Watched], Sequence[float]],
    events: Sequence[tuple[Plan, Event]],
    runs: Mapping[Plan, Watched],
) -> Row:
    """Show how many times as large as before something is after the events, in the median."""
    found = [_times(series(runs[plan]), event.boundary) for plan, event in events]
    limits = [_limit(runs, plan, event.boundary, series, _times) for plan, event in events]
    return shown(
        f"{kind}: {name}, largest of the next {AFTER} boundaries",
        float(np.median(found)),
        "times that before",
        note=f"a static host's 95th percentile there {np.median(limits):.3f}",
    )


def _events(
    kind: Kind, runs: Mapping[Plan, Watched], arms: Iterable[Arm]
) -> Iterable[tuple[Plan, Event]]:
    """Yield the events of a kind that are far enough from their run's end."""
    for plan, run in runs.items():
        if plan.arm in arms:
            for event in run.events:
                if event.kind == kind and event.boundary + AFTER <= len(run.validation):
                    yield plan, event


def _rise(series: Sequence[float], boundary: int) -> float:
    return max(series[boundary : boundary + AFTER]) - series[boundary - 1]


def _times(series: Sequence[float], boundary: int) -> float:
    return max(series[boundary : boundary + AFTER]) / series[boundary - 1]


def _limit(
    runs: Mapping[Plan, Watched],
    like: Plan,
    boundary: int,
    series: Callable[[Watched], Sequence[float]],
    change: Callable[[Sequence[float], int], float],
) -> float:
    """Return the 95th percentile of what a static host does about that boundary, over all seeds."""
    around = AROUND_STEPS // like.recipe.boundary_steps
    noise = [
        change(series(run), other)
        for plan, run in runs.items()
        if plan.arm == "static" and plan.recipe == like.recipe
        for other in range(boundary - around, boundary + around + 1)
        if 1 <= other <= len(run.validation) - AFTER
    ]
    return float(np.percentile(noise, PERCENTILE))


def _validation(run: Watched) -> Sequence[float]:
    return run.validation


_SERIES: Mapping[str, Callable[[Watched], Sequence[float]]] = {
    "training loss": lambda run: run.training,
    "gradient norm": lambda run: run.gradient,
    "step": lambda run: run.step_ms,
}

BENCHMARK = Benchmark(
    name="disruption",
    question="does growing disturb the run it happens in?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "naive insertion",
            "a kernel goes into the forward pass untrained, and at full strength",
            untrained_at_full_strength,
            fails=("blend: within the noise",),
        ),
        Mutant(
            "inserted at germination",
            "a seed is in the forward pass as long as it trains",
            in_the_forward_pass_from_germination,
            fails=("germination: *", "cull in training: *"),
        ),
        Mutant(
            "taken out without its twin",
            "a seed is withdrawn, and the host stays as it came to need it",
            lambda: replaced("esper_async.kasmina.trial.Trial.withdraw", taken_out_alone),
            fails=("cull on trial: within the noise",),
        ),
    ),
)
