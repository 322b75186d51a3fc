"""How likely a network makes a recorded decision now, with gradients, head by head.

`choosing` draws, and this asks again: the same heads in the same order, the same masks, the same
floor. A test holds the two together.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from esper_async.tamiyo.legality import GERMINATE
from esper_async.tamiyo.network.choosing import FLOOR
from esper_async.tamiyo.network.heads import TURNS, PolicyOutput
from esper_async.tamiyo.network.recorded import RecordedDecision, UnusableRecordError

_ABSENT = -1e9
"""Stands for minus infinity, whose gradients would not be numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Rescored:
    """Scalars with gradients: log π of the whole action, and the mean entropy of what was open.

    A head with one legal choice was not open.
    """

    log_probability: Tensor
    entropy: Tensor


def rescored(
    output: PolicyOutput, place: int, decision: RecordedDecision, *, floor: float = FLOOR
) -> Rescored:
    """Return how likely the graph at `place` of a batch makes the decision that was taken on it.

    Raises:
        UnusableRecordError: the record names a head that there is not.
    """
    asked = _Asked(output, place, decision)
    log_probabilities, entropies = [], []
    for head in decision.heads:
        logs = _spread(asked.scores(head.name)[: len(head.legal)], head.legal, floor)
        log_probabilities.append(logs[head.chosen])
        if int(head.legal.sum()) > 1:
            open_logs = logs[head.legal]
            entropies.append(-(open_logs.exp() * open_logs).sum())
        asked.answer(head.name, head.chosen)
    entropy = torch.stack(entropies).mean() if entropies else output.value.new_zeros(())
    return Rescored(torch.stack(log_probabilities).sum(), entropy)


def _spread(scores: Tensor, legal: Tensor, floor: float) -> Tensor:
    """Return log-probabilities over what is legal, the floor included; far below 0 elsewhere."""
    own = torch.log_softmax(torch.where(legal, scores, _ABSENT), dim=0).exp()
    even = floor / int(legal.sum())
    return torch.where(legal, ((1.0 - floor) * own + even).clamp(min=1e-30).log(), _ABSENT)


class _Asked:
    """What has been asked and answered of one decision, and so what is asked next."""

    def __init__(self, output: PolicyOutput, place: int, decision: RecordedDecision) -> None:
        self._output = output
        self._place = place
        self._open = decision.pair_legal.clone()
        self._counts = torch.zeros(len(self._open), dtype=torch.long)
        self._operation = self._seed = self._site = self._blueprint = self._drawn = 0

    def scores(self, head: str) -> Tensor:
        """Return (K,) of the head that is asked now."""
        output, place = self._output, self._place
        pair = (place, self._site, self._blueprint)
        if head == "operation":
            return output.operation[place]
        if head == "seed":
            return output.seed[place, self._operation]
        if head == "candidates":
            stop = output.stop[place, self._drawn - 1]
            return torch.stack([stop, torch.zeros_like(stop)])
        if head == "site":
            return self._sites()
        if head == "blueprint":
            return output.pair[place, self._site]
        if head == "blend":
            return output.blend[pair]
        if head == "ramp":
            plants = self._operation == GERMINATE
            return output.ramp[pair] if plants else output.tune[place, self._seed]
        raise UnusableRecordError(f"there is no head {head!r}")

    def answer(self, head: str, chosen: int) -> None:
        """Go on from what was chosen."""
        if head == "operation":
            self._operation = chosen
        elif head == "seed":
            self._seed = chosen
        elif head == "site":
            self._site = chosen
        elif head == "blueprint":
            self._blueprint = chosen
        elif head == "ramp" and self._operation == GERMINATE:
            self._open = self._open.clone()  # autograd holds what was open before
            self._open[self._site, self._blueprint] = False
            self._counts[self._site] += 1
            self._drawn += 1

    def _sites(self) -> Tensor:
        scores = torch.where(self._open, self._output.pair[self._place], _ABSENT)
        legal = self._open.any(dim=1)
        turns = (self._counts - self._counts[legal].min()).clamp(0, TURNS - 1)
        return torch.logsumexp(scores, dim=1) + self._output.turn[self._place][turns]
