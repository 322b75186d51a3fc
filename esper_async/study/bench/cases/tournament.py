"""What is a tournament of eight, and is its host left alone? Two built-in runs, trained by hand.

Task, epochs and options of `config/runs/digits.toml`, the run that a new user sees, and of
`mnist1d.toml`, the one of the `growth` benchmark; the candidates are those that `heuristic` draws
there first, once eight at one site and once eight over all of them. The host is held against one
that grows nothing, after every step for as long as candidates train. Shares are of
multiply-accumulates, counted.

The short form is the second run on an eighth of its samples with an eighth of the dwell: there are
as many boundaries, and an eighth of the shadow passes to an eighth of the host's steps.
"""

from typing import Any

import torch
from torch import Tensor

from esper_async.kasmina import batched_shadow
from esper_async.kasmina.executor import Executor
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
from esper_async.study.bench.tournament_runs import (
    MOST_SHARE,
    TOURNAMENTS,
    TournamentRun,
    Trained,
    one_thread,
    untouched_row,
)

SHORT_SHARE = {"one site": 0.85, "all sites": 0.6}
"""What is there: the bar is the full form's, which misses it."""
MOST_APART = 0.01
"""Of a kernel trained in one pass with others, from itself trained alone, relative to its size."""
_FIGURES = (
    "{}: steps after which the host differs",
    "{}: share of shadow passes in the run's compute",
    "{}: batched kernels from those trained one by one",
)


def measure(effort: Effort) -> list[Row]:
    """Hold the tournaments of one run, or of both, on one torch thread."""
    names = ("mnist1d",) if effort is Effort.SHORT else tuple(TOURNAMENTS)
    with one_thread():
        return [row for name in names for row in _rows(name, effort)]


def _rows(name: str, effort: Effort) -> list[Row]:
    rows: list[Row] = []
    for place, candidates in TOURNAMENTS[name].items():
        what = f"{name}, {place}"
        untouched, share, agreement = (figure.format(what) for figure in _FIGURES)
        one_by_one = TournamentRun(name, effort, candidates).train(to_its_end=wants(share))
        if wants(share):
            most = MOST_SHARE if effort is Effort.FULL else SHORT_SHARE[place]
            rows.append(_share_row(share, one_by_one, most))
        if not wants(untouched, agreement):
            continue
        run = TournamentRun(name, effort, candidates, shadow_mode="batched")
        batched = run.train(to_its_end=False)
        rows.append(_agreement_row(agreement, one_by_one, batched))
        rows.append(
            shown(
                f"{what}: thread CPU time in shadow passes",
                100 * one_by_one.shadow_s / one_by_one.all_s,
                "%",
                note=f"of {one_by_one.all_s:.1f} s in all; batched they take "
                f"{batched.shadow_s / one_by_one.shadow_s:.2f} times as long as one by one",
            )
        )
        if wants(untouched):
            alone = TournamentRun(name, effort).train(boundaries=one_by_one.boundaries)
            rows.append(untouched_row(untouched, alone, one_by_one, batched, effort))
    return rows


def _share_row(figure: str, trained: Trained, most: float) -> Row:
    spent = {name: value / 1e9 for name, value in trained.macs.items()}
    return judged(
        figure,
        trained.share,
        "",
        Bar("at most", most),
        note=f"{spent['shadow']:.2f} GMAC of {sum(spent.values()):.2f}, and {spent['judging']:.2f} "
        f"to measure candidates; {spent['twin']:.2f} are a twin's; kept: {trained.kept}",
    )


def _agreement_row(figure: str, one_by_one: Trained, batched: Trained) -> Row:
    pairs = list(zip(one_by_one.kernels, batched.kernels, strict=True))
    apart = [float((one - other).norm() / one.norm()) for one, other in pairs]
    contributions = zip(one_by_one.contributions, batched.contributions, strict=True)
    nats = max(abs(one - other) for one, other in contributions)
    return judged(
        figure,
        max(apart),
        "of their size",
        Bar("at most", MOST_APART),
        note=f"the farthest of {len(apart)}; their contributions differ by {nats:.2g} nats at most",
    )


# -- mutants ---------------------------------------------------------------------------------------

_EXECUTOR = "esper_async.kasmina.executor.Executor"
_ONE_FOR_EACH = f"{batched_shadow.__name__}._OneForEach"
_whole_shadow = Executor._shadow


def _learns_five_times(executor: Executor, batch: Any) -> None:
    for _ in range(5):
        _whole_shadow(executor, batch)


def _touches(executor: Executor, batch: Any) -> None:
    _whole_shadow(executor, batch)
    with torch.no_grad():
        next(executor.branch.model.parameters()).mul_(1.0 + 1e-6)


def _neighbours(info: Any, in_dims: Any, index: Tensor, stack: Tensor) -> tuple[Tensor, int]:
    return (stack + stack.roll(1, dims=0)) / 2, 0


BENCHMARK = Benchmark(
    name="tournament",
    question="what does a tournament of eight cost, and is its host left alone?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "touches the host",
            "after a shadow pass a weight of the host is a millionth larger",
            lambda: replaced(f"{_EXECUTOR}._shadow", _touches),
            fails=(_FIGURES[0].format("*"),),
        ),
        Mutant(
            "five shadow passes",
            "candidates are trained five times on every batch that they are trained on",
            lambda: replaced(f"{_EXECUTOR}._shadow", _learns_five_times),
            fails=(_FIGURES[1].format("*"),),
        ),
        Mutant(
            "reads its neighbour's output",
            "in a batched pass half of what a candidate hands on is another one's",
            lambda: replaced(
                f"{batched_shadow.__name__}._OneForEach.vmap", staticmethod(_neighbours)
            ),
            fails=(_FIGURES[2].format("*"),),
        ),
    ),
)
