"""How likely a network makes recorded decisions now, with gradients.

`choosing` draws, and this asks again: the same heads, the same masks, the same floor. A test holds
the two together. Heads of a kind are asked together, over all decisions of a batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esper_async.tamiyo.network.choosing import FLOOR
from esper_async.tamiyo.network.heads import PolicyOutput
from esper_async.tamiyo.network.recorded import RecordedDecision, RecordedHead

_ABSENT = -1e9
"""Stands for minus infinity, whose gradients would not be numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Rescored:
    """Of G decisions, with gradients.

    Attributes:
        log_probabilities: (G,), log π of the whole action.
        entropies: (G,), the mean over the heads that were open: that had more than one choice.
    """

    log_probabilities: Tensor
    entropies: Tensor


def rescored(
    output: PolicyOutput, decisions: Sequence[RecordedDecision], *, floor: float = FLOOR
) -> Rescored:
    """Return how likely each graph of a batch makes the decision that was taken on it."""
    found, entropies, opened = (output.value.new_zeros(len(decisions)) for _ in range(3))
    for kind, scores_of in _SCORES.items():
        asked = [
            (place, head)
            for place, decision in enumerate(decisions)
            for head in decision.heads
            if head.kind == kind
        ]
        if not asked:
            continue
        places = torch.tensor([place for place, _ in asked])  # (R,)
        heads = [head for _, head in asked]
        legal = torch.stack([head.legal for head in heads])  # (R, K)
        logs = _spread(scores_of(output, places, heads), legal, floor)
        chosen = torch.tensor([[head.chosen] for head in heads])
        found = found.index_add(0, places, logs.gather(1, chosen).squeeze(1))
        is_open = (legal.sum(dim=1) > 1).to(logs.dtype)
        surprise = -torch.where(legal, logs.exp() * logs, 0.0).sum(dim=1)
        entropies = entropies.index_add(0, places, is_open * surprise)
        opened = opened.index_add(0, places, is_open)
    return Rescored(found, entropies / opened.clamp(min=1.0))


def _spread(scores: Tensor, legal: Tensor, floor: float) -> Tensor:
    """Return log-probabilities (R, K) over what is legal, the floor included; else far below 0."""
    own = torch.softmax(torch.where(legal, scores, _ABSENT), dim=1)
    even = floor / legal.sum(dim=1, keepdim=True)
    found = (1.0 - floor) * own + even
    return torch.where(legal, found, 1.0).log().masked_fill(~legal, _ABSENT)


Heads = Sequence[RecordedHead]


def _at(heads: Heads, place: int) -> Tensor:
    return torch.tensor([head.at[place] for head in heads])


def _stops(output: PolicyOutput, places: Tensor, heads: Heads) -> Tensor:
    stop = output.stop[places, _at(heads, 0)]
    return torch.stack([stop, torch.zeros_like(stop)], dim=1)


def _sites(output: PolicyOutput, places: Tensor, heads: Heads) -> Tensor:
    open_pairs = torch.stack([head.open_pairs for head in heads if head.open_pairs is not None])
    turns = torch.stack([head.turns for head in heads if head.turns is not None])
    scores = torch.where(open_pairs, output.pair[places], _ABSENT)  # (R, S, B)
    return torch.logsumexp(scores, dim=2) + output.turn[places].gather(1, turns)


_SCORES: Mapping[str, Callable[[PolicyOutput, Tensor, Heads], Tensor]] = {
    "operation": lambda output, places, _: output.operation[places],
    "seed": lambda output, places, heads: output.seed[places, _at(heads, 0)],
    "tune": lambda output, places, heads: output.tune[places, _at(heads, 0)],
    "candidates": _stops,
    "site": _sites,
    "blueprint": lambda output, places, heads: output.pair[places, _at(heads, 0)],
    "blend": lambda output, places, heads: output.blend[places, _at(heads, 0), _at(heads, 1)],
    "ramp": lambda output, places, heads: output.ramp[places, _at(heads, 0), _at(heads, 1)],
}
"""Of each kind of head, its scores (R, K) where it was asked."""
