"""How likely a network makes an action, with gradients: the same heads as are drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from esper_async.kasmina.kernels.graft import BLEND_MODES
from esper_async.kasmina.ramp import RAMP_SCHEDULES
from esper_async.kasmina.seed import Candidate
from esper_async.tamiyo.command import Command, Cull, Germinate, NoOp, Operate
from esper_async.tamiyo.graph.builder import GraphState
from esper_async.tamiyo.legality import GERMINATE, NO_OP, OPERATIONS
from esper_async.tamiyo.network.heads import MOST_CANDIDATES, RAMPS, TURNS, PolicyOutput

_ABSENT = -1e9
"""Stands for minus infinity, whose gradients would not be numbers."""


@dataclass(frozen=True, slots=True)
class Taken:
    """An action as places in a graph: what the heads were asked, and what was chosen.

    `candidates` are (site, blueprint, blend, ramp) in the order in which they were drawn.
    """

    operation: int
    seed: int | None = None
    tune: int | None = None
    candidates: tuple[tuple[int, int, int, int], ...] = ()


def taken(command: Command, state: GraphState) -> Taken:
    """Return a command as places in the graph that it was chosen on.

    Raises:
        ValueError: no policy gives such a command.
    """
    if isinstance(command, NoOp):
        return Taken(NO_OP)
    if isinstance(command, Germinate):
        return Taken(GERMINATE, candidates=tuple(_place(c, state) for c in command.candidates))
    if isinstance(command, Cull):
        return Taken(OPERATIONS.index("CULL"), seed=_seed(command.seed, state))
    if isinstance(command, Operate):
        ramp = None if command.tuning is None else command.tuning.ramp
        tune = None if ramp is None else RAMP_SCHEDULES.index(ramp)
        return Taken(OPERATIONS.index(command.verb), _seed(command.seed, state), tune)
    raise ValueError(f"no policy gives {command}")


def _seed(seed_id: str, state: GraphState) -> int:
    return [seed.id for seed in state.seeds].index(seed_id)


def _place(candidate: Candidate, state: GraphState) -> tuple[int, int, int, int]:
    structure = state.structure
    site = structure.site_index[candidate.site]
    blueprint = structure.blueprint_index[candidate.blueprint]
    placement = state.placements[site * structure.sizes.blueprints + blueprint]
    blend = BLEND_MODES.index(candidate.blend or placement.blend)
    return site, blueprint, blend, RAMPS.index(candidate.ramp)


def log_likelihood(
    output: PolicyOutput, states: Sequence[GraphState], actions: Sequence[Taken]
) -> Tensor:
    """Return (G,): the log-probability of each graph's action, without a floor."""
    return torch.stack(
        [
            _one(output, index, state, action)
            for index, (state, action) in enumerate(zip(states, actions, strict=True))
        ]
    )


def _one(output: PolicyOutput, index: int, state: GraphState, action: Taken) -> Tensor:
    found = _masked(output.operation[index], state.operation_legal)[action.operation]
    if action.operation == GERMINATE:
        return found + _tournament(output, index, state, action.candidates)
    if action.seed is not None:
        legal = state.seed_legal[action.operation]
        found = found + _masked(output.seed[index, action.operation], legal)[action.seed]
        if action.tune is not None:
            found = found + torch.log_softmax(output.tune[index, action.seed], 0)[action.tune]
    return found


def _tournament(
    output: PolicyOutput,
    index: int,
    state: GraphState,
    candidates: Sequence[tuple[int, int, int, int]],
) -> Tensor:
    count = len(candidates)
    places = torch.tensor(candidates)  # (K, 4)
    sites, blueprints = places[:, 0], places[:, 1]
    open_pairs = state.pair_legal.repeat(count, 1, 1)  # (K, S, B)
    counts = torch.zeros(count, state.pair_legal.shape[0], dtype=torch.long)  # (K, S)
    for later in range(1, count):
        open_pairs[later:, sites[later - 1], blueprints[later - 1]] = False
        counts[later:, sites[later - 1]] += 1
    scores = torch.where(open_pairs, output.pair[index], _ABSENT)
    legal = open_pairs.any(dim=2)
    least = torch.where(legal, counts, counts.max() + 1).min(dim=1, keepdim=True).values
    turns = (counts - least).clamp(0, TURNS - 1)
    site_scores = torch.logsumexp(scores, dim=2) + output.turn[index][turns]
    site = torch.log_softmax(torch.where(legal, site_scores, _ABSENT), dim=1)
    drawn = torch.arange(count)
    blueprint = torch.log_softmax(scores[drawn, sites], dim=1)
    found = site[drawn, sites].sum() + blueprint[drawn, blueprints].sum()
    blend = _blends(output, index, state, sites, blueprints)
    found = found + blend[drawn, places[:, 2]].sum()
    ramp = torch.log_softmax(output.ramp[index][sites, blueprints], dim=1)
    found = found + ramp[drawn, places[:, 3]].sum()
    stop = output.stop[index]
    found = found + functional.logsigmoid(-stop[: count - 1]).sum()
    most = min(state.most_candidates, MOST_CANDIDATES)
    exhausted = int(state.pair_legal.sum()) == count
    if count < most and not exhausted:
        found = found + functional.logsigmoid(stop[count - 1])
    return found


def _blends(
    output: PolicyOutput, index: int, state: GraphState, sites: Tensor, blueprints: Tensor
) -> Tensor:
    """Return (K, 4): log-probabilities of the blends of candidates, over what fits each."""
    width = state.structure.sizes.blueprints
    legal = []
    for place in (sites * width + blueprints).tolist():
        unfit = "convex" if state.placements[place].blend == "residual" else "residual"
        legal.append([mode != unfit for mode in BLEND_MODES])
    scores = output.blend[index][sites, blueprints]
    return torch.log_softmax(torch.where(torch.tensor(legal), scores, _ABSENT), dim=1)


def _masked(scores: Tensor, legal: Tensor) -> Tensor:
    return torch.log_softmax(torch.where(legal, scores, _ABSENT), dim=0)
