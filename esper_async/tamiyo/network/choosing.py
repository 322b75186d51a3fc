"""From scores to one action, head by head, with the probability of every choice that was made.

Each head is a distribution over what is legal: (1 - floor) of the network's own, and the floor
shared evenly, so that nothing legal is ever impossible and nothing illegal ever possible. A
tournament is drawn candidate by candidate without putting one back; its probability is that of the
order in which it was drawn, which is what a learner weighs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esper_async.kasmina.kernels.graft import BLEND_MODES
from esper_async.kasmina.ramp import RAMP_SCHEDULES, RampSchedule
from esper_async.kasmina.seed import Candidate
from esper_async.tamiyo.graph.builder import GraphState
from esper_async.tamiyo.legality import GERMINATE, NO_OP, OPERATIONS, Operation
from esper_async.tamiyo.network.heads import MOST_CANDIDATES, RAMPS, TURNS, PolicyOutput
from esper_async.tamiyo.view import Placement

FLOOR = 0.02
Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]


class UnsoundScoresError(ArithmeticError):
    """The network returned a score that is not finite; nothing was chosen."""


@dataclass(frozen=True, slots=True)
class HeadChoice:
    """One head: what was legal, how likely each choice was, and which was made."""

    name: str
    legal: Mask
    probabilities: Scores
    chosen: int

    @property
    def probability(self) -> float:
        """How likely the choice was that was made."""
        return float(self.probabilities[self.chosen])


@dataclass(slots=True)
class Action:
    """What was chosen, by which heads.

    `seed` is the place of the target among the state's seeds; `tune` the ramp that FINE_TUNE sets.
    """

    operation: Operation
    seed: int | None = None
    candidates: tuple[Candidate, ...] = ()
    tune: RampSchedule | None = None
    heads: list[HeadChoice] = field(default_factory=list)

    @property
    def log_probability(self) -> float:
        """Of the whole action under the distribution that it was drawn from."""
        return math.fsum(math.log(head.probability) for head in self.heads)


class Scored:
    """A graph's scores as arrays, masked by its state, and the distributions of every head.

    Args:
        state: the graph.
        output: its scores, without gradients; the first graph of the batch.
        floor: share of every head that is spread evenly over what is legal.
    """

    def __init__(self, state: GraphState, output: PolicyOutput, *, floor: float = FLOOR) -> None:
        self.state = state
        self.floor = floor
        self._scores = {each.name: getattr(output, each.name)[0].numpy() for each in fields(output)}
        self._pair = self._scores["pair"].astype(np.float64)
        self._pair_legal = state.pair_legal.numpy()
        self._operation_legal = state.operation_legal.numpy()
        self._seed_legal = state.seed_legal.numpy()

    def operation(self) -> tuple[Mask, Scores]:
        """Return what is legal and the probabilities (O,) of the operation head."""
        legal = self._operation_legal
        return legal, self._spread(self._scores["operation"], legal)

    def target(self, operation: int) -> tuple[Mask, Scores]:
        """Return the same (M,) of the seed that an operation acts on."""
        legal = self._seed_legal[operation]
        return legal, self._spread(self._scores["seed"][operation], legal)

    def tune(self, seed: int) -> tuple[Mask, Scores]:
        """Return the same (3,) of the ramp that a seed gets."""
        legal = np.ones(len(RAMP_SCHEDULES), dtype=np.bool_)
        return legal, self._spread(self._scores["tune"][seed], legal)

    def go_on(self, drawn: int) -> tuple[Mask, Scores]:
        """Return the same (2,) of stopping and drawing another, after `drawn` candidates."""
        stop = self._scores["stop"][drawn - 1]
        legal = np.ones(2, dtype=np.bool_)
        return legal, self._spread(np.array([stop, 0.0]), legal)

    def site(self, open_pairs: Mask, counts: NDArray[np.int64]) -> tuple[Mask, Scores]:
        """Return the same (S,) of the next candidate's site.

        `open_pairs` (S, B) are the pairs that may still be drawn, `counts` (S,) how many of each
        site were.
        """
        legal: Mask = np.any(open_pairs, axis=1)
        scores = np.where(open_pairs, self._pair, -np.inf)
        peaks = scores.max(axis=1, initial=-np.inf, keepdims=True)
        peaks[~np.isfinite(peaks)] = 0.0
        with np.errstate(divide="ignore"):
            together = np.log(np.exp(scores - peaks).sum(axis=1)) + peaks[:, 0]
        least = counts[legal].min() if legal.any() else 0
        turns = np.minimum(counts - least, TURNS - 1).clip(0)
        return legal, self._spread(together + self._scores["turn"][turns], legal)

    def blueprint(self, site: int, open_pairs: Mask) -> tuple[Mask, Scores]:
        """Return the same (B,) of the blueprint at a site."""
        return open_pairs[site], self._spread(self._pair[site], open_pairs[site])

    def first_candidate(self) -> Scores:
        """Return (S, B): how likely each placement is the first to be drawn."""
        legal = self._pair_legal
        _, sites = self.site(legal, np.zeros(legal.shape[0], dtype=np.int64))
        scores = np.where(legal, self._pair, -np.inf)
        peaks = scores.max(axis=1, keepdims=True)
        weights = np.exp(scores - np.where(np.isfinite(peaks), peaks, 0.0))
        counts = np.maximum(legal.sum(axis=1, keepdims=True), 1)
        totals = np.where(np.isfinite(peaks), weights.sum(axis=1, keepdims=True), 1.0)
        found: Scores = sites[:, None] * (
            (1.0 - self.floor) * weights / totals + self.floor * legal / counts
        )
        return found

    def blend(self, site: int, blueprint: int, placement: Placement) -> tuple[Mask, Scores]:
        """Return the same (4,) of how a candidate is blended: what fits its kernel is legal."""
        unfit = "convex" if placement.blend == "residual" else "residual"
        legal = np.array([mode != unfit for mode in BLEND_MODES])
        return legal, self._spread(self._scores["blend"][site, blueprint], legal)

    def ramp(self, site: int, blueprint: int) -> tuple[Mask, Scores]:
        """Return the same (4,) of the ramp of a candidate."""
        legal = np.ones(len(RAMPS), dtype=np.bool_)
        return legal, self._spread(self._scores["ramp"][site, blueprint], legal)

    def open_pairs(self) -> Mask:
        """Return a copy of (S, B), where something may be planted."""
        return self._pair_legal.copy()

    def _spread(self, scores: "NDArray[np.floating[Any]]", legal: Mask) -> Scores:
        """Return probabilities over what is legal; exactly 0 elsewhere."""
        known = scores[legal].astype(np.float64)
        if not np.isfinite(known).all():
            raise UnsoundScoresError("the policy's network returned scores that are not finite")
        weights = np.exp(known - known.max())
        found = np.zeros(scores.shape)
        own = weights / weights.sum()
        found[legal] = (1.0 - self.floor) * own + self.floor / known.size
        return found


Pick = Callable[[Scores], int]
"""Chooses one of several by their probabilities."""


def most_likely(probabilities: Scores) -> int:
    """Choose the likeliest; of equals the first."""
    return int(probabilities.argmax())


def drawn_by(uniform: Callable[[], float]) -> Pick:
    """Choose by chance, with numbers of [0, 1) from `uniform`."""

    def pick(probabilities: Scores) -> int:
        reached = np.cumsum(probabilities)
        index = int(np.searchsorted(reached, uniform() * reached[-1], side="right"))
        # rounding may carry past the last choice that is possible
        return min(index, int(np.flatnonzero(probabilities)[-1]))

    return pick


def choose(scored: Scored, pick: Pick) -> Action:
    """Choose an action head by head; to do nothing is what an empty mask leaves."""
    heads: list[HeadChoice] = []
    operation = _ask(heads, "operation", scored.operation(), pick)
    name = OPERATIONS[operation]
    if operation == NO_OP:
        return Action(name, heads=heads)
    if operation == GERMINATE:
        return Action(name, candidates=_draw(scored, heads, pick), heads=heads)
    seed = _ask(heads, "seed", scored.target(operation), pick)
    tune = None
    if name == "FINE_TUNE":
        tune = RAMP_SCHEDULES[_ask(heads, "ramp", scored.tune(seed), pick)]
    return Action(name, seed=seed, tune=tune, heads=heads)


def _draw(scored: Scored, heads: list[HeadChoice], pick: Pick) -> tuple[Candidate, ...]:
    """Draw the candidates of a tournament one after the other."""
    open_pairs = scored.open_pairs()
    counts = np.zeros(open_pairs.shape[0], dtype=np.int64)
    most = min(scored.state.most_candidates, MOST_CANDIDATES)
    found: list[Candidate] = []
    while len(found) < most and open_pairs.any():
        if found and _ask(heads, "candidates", scored.go_on(len(found)), pick) == 0:
            break
        site = _ask(heads, "site", scored.site(open_pairs, counts), pick)
        blueprint = _ask(heads, "blueprint", scored.blueprint(site, open_pairs), pick)
        placement = scored.state.placements[site * open_pairs.shape[1] + blueprint]
        blend = _ask(heads, "blend", scored.blend(site, blueprint, placement), pick)
        ramp = _ask(heads, "ramp", scored.ramp(site, blueprint), pick)
        open_pairs[site, blueprint] = False
        counts[site] += 1
        found.append(
            Candidate(
                placement.site, placement.blueprint, blend=BLEND_MODES[blend], ramp=RAMPS[ramp]
            )
        )
    return tuple(found)


def _ask(heads: list[HeadChoice], name: str, asked: tuple[Mask, Scores], pick: Pick) -> int:
    legal, probabilities = asked
    chosen = pick(probabilities)
    heads.append(HeadChoice(name, legal.copy(), probabilities, chosen))
    return chosen


def likeliest(
    scored: Scored, most: int
) -> Sequence[tuple[Operation, str | None, str | None, float]]:
    """Return the likeliest alternatives: operation, site or seed, blueprint, and probability.

    Of a germination it is the probability that its first candidate is this one.
    """
    _, operations = scored.operation()
    found: list[tuple[Operation, str | None, str | None, float]] = []
    for index in np.flatnonzero(operations):
        name, chance = OPERATIONS[index], float(operations[index])
        if index == NO_OP:
            found.append((name, None, None, chance))
        elif index == GERMINATE:
            found += _placements(scored, chance, most)
        else:
            _, targets = scored.target(int(index))
            found += [
                (name, scored.state.seeds[place].id, None, chance * float(targets[place]))
                for place in np.flatnonzero(targets)
            ]
    return sorted(found, key=lambda entry: -entry[3])[:most]


def _placements(
    scored: Scored, chance: float, most: int
) -> list[tuple[Operation, str | None, str | None, float]]:
    together = chance * scored.first_candidate()  # (S, B)
    width = together.shape[1]
    order = np.argsort(-together, axis=None, kind="stable")[:most]
    found: list[tuple[Operation, str | None, str | None, float]] = []
    for place in order.tolist():
        if place in scored.state.placements:
            placement = scored.state.placements[place]
            probability = float(together[place // width, place % width])
            found.append(("GERMINATE", placement.site, placement.blueprint, probability))
    return found
