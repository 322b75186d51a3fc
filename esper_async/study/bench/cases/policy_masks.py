"""Can the graph policy choose what is not legal? Over random states, with random weights."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from esper_async.kasmina.stage import TRANSITIONS, Stage
from esper_async.study.bench.benchmark import Bar, Benchmark, Effort, Mutant, Row, judged, replaced
from esper_async.tamiyo.command import Command, Cull, Germinate, NoOp, Operate
from esper_async.tamiyo.graph.builder import GraphBuilder, GraphState
from esper_async.tamiyo.imitation.states import StateDraw
from esper_async.tamiyo.legality import OPERATIONS
from esper_async.tamiyo.network import PolicyOutput
from esper_async.tamiyo.network.choosing import Action, Scored, choose, drawn_by
from esper_async.tamiyo.network.heads import MOST_CANDIDATES, RAMPS, TURNS
from esper_async.tamiyo.policies.graph import command_of
from esper_async.tamiyo.view import View

_STATES = {Effort.SHORT: 1_500, Effort.FULL: 100_000}
ILLEGAL = "states in which something illegal had probability or was chosen"
EMPTY = "states with nothing to act on in which something was done"
NEVER = "states in which something legal had no probability"
_SPREAD = 30.0
_SPREAD_BY = "esper_async.tamiyo.network.choosing.Scored._spread"


def measure(effort: Effort) -> list[Row]:
    """Ask about random states, with random scores that know nothing of what is legal."""
    draw = StateDraw(1)
    chance = random.Random(2)  # noqa: S311 - to repeat, not to hide
    numbers = np.random.default_rng(3)
    illegal = acted = impossible = empty = 0
    for _ in range(_STATES[effort]):
        view = draw.view(sites=(1, 8))
        state = GraphBuilder().state(view)
        scored = Scored(state, _scores(state, numbers))
        try:
            action = choose(scored, drawn_by(chance.random))
        except (LookupError, ValueError):  # something was to be done where nothing may be
            illegal += 1
            empty += _is_idle(view)
            acted += _is_idle(view)
            continue
        command = _named(action, state)
        soiled = any(head.probabilities[~head.legal].any() for head in action.heads)
        illegal += soiled or not _is_legal(command, view)
        impossible += any(not head.probabilities[head.legal].all() for head in action.heads)
        if _is_idle(view):
            empty += 1
            acted += not isinstance(command, NoOp)
    count = _STATES[effort]
    return [
        judged(ILLEGAL, illegal, "states", Bar("at most", 0), note=f"of {count} random states"),
        judged(EMPTY, acted, "states", Bar("at most", 0), note=f"of {empty} such states"),
        judged(NEVER, impossible, "states", Bar("at most", 0), note=f"of {count} random states"),
    ]


def _is_idle(view: View) -> bool:
    """Whether there is nothing to act on, by the view and the lifecycle's table alone."""
    plantable = bool(view.placements) and view.free_candidates > 0
    return not plantable and all(Stage.CULLED not in TRANSITIONS[s.stage] for s in view.seeds)


def _named(action: Action, state: GraphState) -> Command | None:
    """Return an action as a command; None for one on a seed or a placement that is not there."""
    try:
        return command_of(action, state)
    except LookupError:
        return None


def _scores(state: GraphState, numbers: np.random.Generator) -> PolicyOutput:
    """Return scores far apart, drawn anew: the worst that a network could come to."""
    sizes = state.structure.sizes
    shapes: Mapping[str, tuple[int, ...]] = {
        "operation": (len(OPERATIONS),),
        "seed": (len(OPERATIONS), sizes.seeds),
        "pair": (sizes.sites, sizes.blueprints),
        "turn": (TURNS,),
        "stop": (MOST_CANDIDATES,),
        "blend": (sizes.sites, sizes.blueprints, 4),
        "ramp": (sizes.sites, sizes.blueprints, len(RAMPS)),
        "tune": (sizes.seeds, 3),
        "value": (),
        "risk": (5,),
    }
    drawn: dict[str, Any] = {
        name: torch.from_numpy(_SPREAD * numbers.standard_normal((1, *shape), dtype=np.float32))
        for name, shape in shapes.items()
    }
    return PolicyOutput(**drawn)


def _is_legal(command: Command | None, view: View) -> bool:
    """Judge a command by the view and the lifecycle's table alone, not by the policy's masks."""
    if isinstance(command, NoOp):
        return True
    if isinstance(command, Germinate):
        offered = {(p.site, p.blueprint): p.blend for p in view.placements}
        chosen = [(c.site, c.blueprint) for c in command.candidates]
        blends = all(
            candidate.blend in (offered.get(pair), "per_channel", "confidence_gated")
            for pair, candidate in zip(chosen, command.candidates, strict=True)
        )
        distinct = len(set(chosen)) == len(chosen) <= view.free_candidates
        return distinct and blends and set(chosen) <= set(offered)
    stages = {seed.id: seed.stage for seed in view.seeds}
    if isinstance(command, Cull):
        return Stage.CULLED in TRANSITIONS[stages[command.seed]]
    if isinstance(command, Operate):
        allowed = _GOALS.get(command.verb, frozenset())
        return stages[command.seed] in allowed
    return False


_TRIED = frozenset({Stage.TRAINING, Stage.BLENDING, Stage.SHADOWING, Stage.PROBATIONARY})
_GOALS = {
    "FOSSILIZE": frozenset({Stage.PROBATIONARY}),
    "START_TRAINING": frozenset({Stage.GERMINATED}),
    "START_GRAFTING": frozenset({Stage.TRAINING}),
    "STABILIZE": frozenset({Stage.BLENDING}),
    "EVALUATE": _TRIED,
    "FINE_TUNE": frozenset({Stage.BLENDING}),
    "CANCEL": frozenset({Stage.GERMINATED}),
}


def _forgets_the_floor(self: Scored, scores: Any, legal: Any) -> Any:
    known = scores[legal].astype(np.float64)
    found = np.zeros(scores.shape)
    weights = np.exp(known - known.max())
    found[legal] = np.where(weights < 1e-3, 0.0, weights)
    return found / found.sum()


def _every_stage(_stage: Stage) -> Any:
    return np.ones(len(OPERATIONS), dtype=np.bool_)


def _spread_over_all(self: Scored, scores: Any, legal: Any) -> Any:
    known = scores.astype(np.float64)
    weights = np.exp(known - known.max())
    spread: Any = weights / weights.sum()
    return spread


def _always_something(seed_legal: Any, *, may_germinate: bool) -> Any:
    legal = seed_legal.any(axis=1)
    legal[1] = may_germinate
    legal[0] = False
    if not legal.any():
        legal[2] = True
    return legal


BENCHMARK = Benchmark(
    name="policy-masks",
    question="can the graph policy choose what is not legal?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "every operation on every seed",
            "the stage of a seed is not looked at",
            lambda: replaced("esper_async.tamiyo.graph.builder.seed_operations", _every_stage),
            fails=(ILLEGAL,),
        ),
        Mutant(
            "no mask",
            "probability is spread over all there is",
            lambda: replaced(
                "esper_async.tamiyo.network.choosing.Scored._spread", _spread_over_all
            ),
            fails=(ILLEGAL,),
        ),
        Mutant(
            "no floor",
            "what is unlikely is given up",
            lambda: replaced(_SPREAD_BY, _forgets_the_floor),
            fails=(NEVER,),
        ),
        Mutant(
            "acts whatever the mask",
            "with nothing to act on it removes a seed that may not be",
            lambda: replaced(
                "esper_async.tamiyo.graph.builder.legal_operations", _always_something
            ),
            fails=(EMPTY,),
        ),
    ),
)
