"""Training the graph policy to do as the heuristic does, and looking whether it does."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.nn import functional

from esper_async.tamiyo.command import Command, Germinate
from esper_async.tamiyo.graph.builder import GraphBuilder, GraphState
from esper_async.tamiyo.imitation.likelihood import Taken, log_likelihood, taken
from esper_async.tamiyo.imitation.states import StateDraw
from esper_async.tamiyo.network import GraphBatch, NetworkForm, PolicyNetwork
from esper_async.tamiyo.policies.graph import GraphPolicy
from esper_async.tamiyo.policies.heuristic import HeuristicPolicy
from esper_async.tamiyo.view import View

_SITE_RANGES = ((1, 8), (1, 8), (9, 16), (17, 24))
_ASIDE = 0.1
"""Weight of the heads that there is no teacher for: a return of 0, and GREEN."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """How a network is taught; all of it is part of what comes out, to the bit."""

    seed: int = 0
    steps: int = 320
    batch: int = 16
    learning_rate: float = 3e-3
    form: NetworkForm = field(default_factory=NetworkForm)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a policy does as the heuristic does, on states where that acts.

    Attributes:
        states: how many there were.
        same: share of them with the same operation, number of candidates and spread over sites.
        distance: mean total variation between the two draws of the first candidate, 0 to 1.
    """

    states: int
    same: float
    distance: float


def teach(lesson: Lesson, *, progress: Callable[[int, float], None] | None = None) -> PolicyNetwork:
    """Return a network that imitates the heuristic, in evaluation mode.

    The same lesson gives the same weights on the same machine with one torch thread.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lesson.seed)
        network = PolicyNetwork(lesson.form).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=lesson.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=lesson.learning_rate, total_steps=lesson.steps
        )
        draw = StateDraw(lesson.seed)
        for step in range(lesson.steps):
            states, actions = _batch(draw, lesson, step)
            output = network(GraphBatch.of(states))
            likelihood = log_likelihood(output, states, actions)
            aside = output.value.square().mean()
            green = torch.zeros(len(states), dtype=torch.long)
            aside = aside + functional.cross_entropy(output.risk, green)
            loss = -likelihood.mean() + _ASIDE * aside
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(step, float(loss.detach()))
    return network.eval()


def _batch(draw: StateDraw, lesson: Lesson, step: int) -> tuple[list[GraphState], list[Taken]]:
    """Return graphs of one size with what the heuristic does on them."""
    sites = _SITE_RANGES[step % len(_SITE_RANGES)]
    by_size: dict[Any, list[tuple[GraphState, Taken]]] = {}
    drawn = 0
    while True:
        view = draw.view(sites=sites)
        state = GraphBuilder().state(view)
        policy = HeuristicPolicy(lesson.seed * 1_000_003 + step * 1_009 + drawn)
        drawn += 1
        alike = by_size.setdefault(state.structure.sizes, [])
        alike.append((state, taken(policy.decide(view).command, state)))
        if len(alike) == lesson.batch:
            return [each for each, _ in alike], [action for _, action in alike]


def agreement(network: PolicyNetwork, views: Sequence[View], *, seed: int = 0) -> Agreement:
    """Compare a network with the heuristic, on those of the views where that acts.

    The network takes the likeliest of each head.
    """
    policy = GraphPolicy(seed, network, version="compared", greedy=True)
    same = 0
    distances = []
    for place, view in enumerate(views):
        theirs = HeuristicPolicy(seed + place).decide(view).command
        if not isinstance(theirs, Germinate):
            continue
        ours = policy.decide(view).command
        same += _alike(ours, theirs)
        distances.append(_distance(policy, view))
    count = len(distances)
    if count == 0:
        return Agreement(0, math.nan, math.nan)
    return Agreement(count, same / count, math.fsum(distances) / count)


def _alike(ours: Command, theirs: Germinate) -> bool:
    """Whether a command plants as many candidates, spread over the sites in the same way."""
    if not isinstance(ours, Germinate):
        return False
    spreads = [
        sorted(Counter(candidate.site for candidate in command.candidates).values())
        for command in (ours, theirs)
    ]
    return spreads[0] == spreads[1]


def _distance(policy: GraphPolicy, view: View) -> float:
    """Return the total variation between the first candidate's draw and the heuristic's own."""
    drawn = policy.first_candidate(view)  # by (site, blueprint)
    weights = {
        (each.site, each.blueprint): HeuristicPolicy.weight(each) for each in view.placements
    }
    total = math.fsum(weights.values())
    return 0.5 * math.fsum(abs(drawn[pair] - weight / total) for pair, weight in weights.items())
