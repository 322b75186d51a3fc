"""What does successive halving save of a tournament of eight, and does it come to the same winner?

The tournaments of `bench tournament`, with `growth.tournament = "halving"`: what their candidates
cost beside those of full ones, and, with the bar of the full ones, of all that the run computes.
What it costs to measure candidates at the end of each round is counted in. The host is held against
one that grows nothing. The same tournaments are held on development seeds, by halves and in full:
host and kernels are others on each of them.

The short form has the second run alone, on an eighth of its samples with an eighth of the dwell,
none of it to its end, and for the winner a tournament in which only one of eight can help.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from esper_async.kasmina import executor, tournament
from esper_async.kasmina.executor import Executor
from esper_async.kasmina.gates import GateResult
from esper_async.kasmina.rounds import Round
from esper_async.kasmina.seed import Candidate, Seed
from esper_async.kasmina.tournament import halve, rank
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
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

DEVELOPMENT_SEEDS = tuple(range(40, 48))
LEAST_ALIKE = 0.75
"""Fixed in advance. Where two are as good as each other, either may win."""
MOST_OF_A_FULL_ONE = 0.75
"""With as many candidates of every kind in each round it would be 0.54."""
_FIGURES = (
    "{}: steps after which the host differs",
    "{}: cost of the candidates, of that in a full tournament",
    "{}: share of tournaments with the winner of the full one",
)
_SHARE = "{}: share of shadow passes in the run's compute"
ONE_THAT_HELPS = tuple(
    Candidate(site, blueprint)
    for site, blueprints in {
        "stem.1": ("PL001", "PL002", "PL003", "BP009"),
        "pool": ("PL001", "PL002", "PL003", "BP001"),
    }.items()
    for blueprint in blueprints
)
_RANKED_ALONE = {"dwell_steps": 40, "first_round_steps": 20, "g2_margin": -1e9}
"""So few samples show which one helps, but not surely enough for G2."""


def measure(effort: Effort) -> list[Row]:
    """Hold the tournaments of one run, or of both, on one torch thread."""
    names = ("mnist1d",) if effort is Effort.SHORT else tuple(TOURNAMENTS)
    with one_thread():
        return [row for name in names for row in _rows(name, effort)]


def _rows(name: str, effort: Effort) -> list[Row]:
    rows: list[Row] = []
    for place, candidates in TOURNAMENTS[name].items():
        what = f"{name}, {place}"
        untouched, cost = (figure.format(what) for figure in _FIGURES[:2])
        if not wants(untouched, cost):
            continue
        halved = _by_halves(name, effort, candidates).train(to_its_end=effort is Effort.FULL)
        if effort is Effort.FULL:
            rows.append(_share_row(_SHARE.format(what), halved))
        if wants(cost):
            full = TournamentRun(name, effort, candidates).train(to_its_end=False)
            rows.append(_cost_row(cost, full, halved))
        if wants(untouched):
            run = _by_halves(name, effort, candidates, shadow_mode="batched")
            alone = TournamentRun(name, effort).train(boundaries=halved.boundaries)
            batched = run.train(to_its_end=False)
            rows.append(untouched_row(untouched, alone, halved, batched, effort))
    alike = _FIGURES[2].format(name)
    if wants(alike):
        pairs = [_pair(name, effort, *which) for which in _tournaments(name, effort)]
        rows.append(_alike_row(alike, pairs))
    return rows


def _by_halves(
    name: str, effort: Effort, candidates: tuple[Candidate, ...], **growth: Any
) -> TournamentRun:
    return TournamentRun(name, effort, candidates, tournament="halving", **growth)


def _share_row(figure: str, halved: Trained) -> Row:
    spent = {what: value / 1e9 for what, value in halved.macs.items()}
    return judged(
        figure,
        halved.share,
        "",
        Bar("at most", MOST_SHARE),
        note=f"{spent['shadow']:.2f} GMAC of {sum(spent.values()):.2f}, and {spent['judging']:.2f} "
        f"to measure candidates; kept: {halved.kept}",
    )


def _cost_row(figure: str, full: Trained, halved: Trained) -> Row:
    return judged(
        figure,
        halved.spent / full.spent,
        "",
        Bar("at most", MOST_OF_A_FULL_ONE),
        note=f"{halved.spent / 1e9:.2f} GMAC and {full.spent / 1e9:.2f}, measuring included",
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    """One tournament, in full and by halves."""

    full: Trained
    halved: Trained

    @property
    def alike(self) -> bool:
        """Whether both have the same winner."""
        return self.full.winner == self.halved.winner

    @property
    def lost(self) -> float:
        """What the full one's winner contributes more than the other's, in full training; nats."""
        one, other = self.full.winner, self.halved.winner
        if one is None or other is None:
            return math.nan
        return self.full.contributions[one] - self.full.contributions[other]


def _tournaments(name: str, effort: Effort) -> list[tuple[tuple[Candidate, ...], int]]:
    """Return the candidates and the seed of each."""
    if effort is Effort.SHORT:
        return [(ONE_THAT_HELPS, DEVELOPMENT_SEEDS[0])]
    return [
        (candidates, seed)
        for candidates in TOURNAMENTS[name].values()
        for seed in DEVELOPMENT_SEEDS
    ]


def _pair(name: str, effort: Effort, candidates: tuple[Candidate, ...], seed: int) -> _Pair:
    growth: dict[str, Any] = _RANKED_ALONE if effort is Effort.SHORT else {}
    run = partial(TournamentRun, name, effort, candidates, seed=seed, **growth)
    full, halved = (run(tournament=kind).train(to_its_end=False) for kind in ("full", "halving"))
    return _Pair(full, halved)


def _alike_row(figure: str, pairs: Sequence[_Pair]) -> Row:
    others = [f"{pair.lost:+.3f}" for pair in pairs if not pair.alike]
    alike = len(pairs) - len(others)
    told = "; the full one's winner contributes more by " + ", ".join(others) + " nats"
    return judged(
        figure,
        alike / len(pairs),
        "",
        Bar("at least", LEAST_ALIKE),
        note=f"{alike} of {len(pairs)}{told if others else ''}",
    )


# -- mutants ---------------------------------------------------------------------------------------

_EXECUTOR = f"{executor.__name__}.Executor"
_HALVE = f"{executor.__name__}.halve"
_whole_remove = Executor._remove


def _drops_nobody(
    members: Sequence[Seed], end: Round, *, boundary: int
) -> list[tuple[Seed, GateResult]]:
    return []


def _drops_the_better(
    members: Sequence[Seed], end: Round, *, boundary: int
) -> list[tuple[Seed, GateResult]]:
    with replaced(f"{tournament.__name__}.rank", lambda seeds: rank(seeds)[::-1]):
        return halve(members, end, boundary=boundary)


def _touches(whole: Executor, seed: Seed, gate: GateResult) -> None:
    _whole_remove(whole, seed, gate)
    with torch.no_grad():
        next(whole.branch.model.parameters()).mul_(1.0 + 1e-6)


BENCHMARK = Benchmark(
    name="halving",
    question="what does successive halving save of a tournament, and who wins it?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "touches the host",
            "where a candidate is dropped, a weight of the host becomes a millionth larger",
            lambda: replaced(f"{_EXECUTOR}._remove", _touches),
            fails=(_FIGURES[0].format("*"),),
        ),
        Mutant(
            "drops nobody",
            "at the end of a round all candidates go on",
            lambda: replaced(_HALVE, _drops_nobody),
            fails=(_FIGURES[1].format("*"),),
        ),
        Mutant(
            "drops the better half",
            "at the end of a round those that go on are the worse ones",
            lambda: replaced(_HALVE, _drops_the_better),
            fails=(_FIGURES[2].format("*"),),
        ),
    ),
)
