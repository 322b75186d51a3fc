"""From scores to one action, head by head, with the probability of every choice that was made.

Each head is a distribution over what is legal: (1 - floor) of the network's own, and the floor
shared evenly, so that nothing legal is ever impossible and nothing illegal ever possible. A
tournament is drawn candidate by candidate without putting one back; its probability is that of the
order in which it was drawn, which is what a learner weighs.
"""

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
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
        self._output = output
        self._pair = output.pair[0].numpy().astype(np.float64)
        self._pair_legal = state.pair_legal.numpy()
        self._operation_legal = state.operation_legal.numpy()
        self._seed_legal = state.seed_legal.numpy()
        self._operation: Scores | None = None
        self._targets: Scores | None = None
        self._whole: Pool | None = None

    def operation(self) -> tuple[Mask, Scores]:
        """Return what is legal and the probabilities (O,) of the operation head."""
        legal = self._operation_legal
        if self._operation is None:
            self._operation = self._spread(self._output.operation[0].numpy(), legal)
        return legal, self._operation

    def target(self, operation: int) -> tuple[Mask, Scores]:
        """Return the same (M,) of the seed that an operation acts on."""
        return self._seed_legal[operation], self.targets()[operation]

    def targets(self) -> Scores:
        """Return the probabilities (O, M) of the seeds that operations act on, 0 where none may."""
        if self._targets is None:
            self._targets = self._spread_rows(self._output.seed[0].numpy(), self._seed_legal)
        return self._targets

    def tune(self, seed: int) -> tuple[Mask, Scores]:
        """Return the same (3,) of the ramp that a seed gets."""
        legal = np.ones(len(RAMP_SCHEDULES), dtype=np.bool_)
        return legal, self._spread(self._output.tune[0, seed].numpy(), legal)

    def go_on(self, drawn: int) -> tuple[Mask, Scores]:
        """Return the same (2,) of stopping and drawing another, after `drawn` candidates."""
        stop = float(self._output.stop[0, drawn - 1])
        legal = np.ones(2, dtype=np.bool_)
        return legal, self._spread(np.array([stop, 0.0]), legal)

    def pool(self) -> "Pool":
        """Return what a tournament is drawn from, nothing drawn yet."""
        return self._undrawn().copy()

    def _undrawn(self) -> "Pool":
        if self._whole is None:
            self._whole = Pool(self._pair, self._pair_legal)
        return self._whole

    def site(self, pool: "Pool") -> tuple[Mask, Scores]:
        """Return the same (S,) of the next candidate's site."""
        legal = pool.sites
        least = pool.counts[legal].min() if legal.any() else 0
        turns = np.minimum(pool.counts - least, TURNS - 1).clip(0)
        return legal, self._spread(pool.together + self._output.turn[0].numpy()[turns], legal)

    def blueprint(self, site: int, pool: "Pool") -> tuple[Mask, Scores]:
        """Return the same (B,) of the blueprint at a site."""
        return pool.pairs[site], self._spread(self._pair[site], pool.pairs[site])

    def first_candidate(self) -> Scores:
        """Return (S, B): how likely each placement is the first to be drawn."""
        pool = self._undrawn()
        _, sites = self.site(pool)
        counts = np.maximum(pool.pairs.sum(axis=1), 1)
        totals = np.where(pool.sites, pool.totals, 1.0)
        found: Scores = pool.weights * ((1.0 - self.floor) * sites / totals)[:, None]
        found += pool.pairs * (self.floor * sites / counts)[:, None]
        return found

    def blend(self, site: int, blueprint: int, placement: Placement) -> tuple[Mask, Scores]:
        """Return the same (4,) of how a candidate is blended: what fits its kernel is legal."""
        unfit = "convex" if placement.blend == "residual" else "residual"
        legal = np.array([mode != unfit for mode in BLEND_MODES])
        return legal, self._spread(self._output.blend[0, site, blueprint].numpy(), legal)

    def ramp(self, site: int, blueprint: int) -> tuple[Mask, Scores]:
        """Return the same (4,) of the ramp of a candidate."""
        legal = np.ones(len(RAMPS), dtype=np.bool_)
        return legal, self._spread(self._output.ramp[0, site, blueprint].numpy(), legal)

    def _spread(self, scores: "NDArray[np.floating[Any]]", legal: Mask) -> Scores:
        """Return probabilities over what is legal; exactly 0 elsewhere."""
        known = scores[legal].astype(np.float64)
        if not math.isfinite(np.add.reduce(known)):
            raise UnsoundScoresError("the policy's network returned scores that are not finite")
        known -= np.maximum.reduce(known)
        np.exp(known, out=known)
        known *= (1.0 - self.floor) / np.add.reduce(known)
        known += self.floor / known.size
        found = np.zeros(scores.shape)
        found[legal] = known
        return found

    def _spread_rows(self, scores: "NDArray[np.floating[Any]]", legal: Mask) -> Scores:
        """Return the same of each row (R, K) by itself; 0 in rows in which nothing is legal."""
        known = np.where(legal, scores.astype(np.float64), -np.inf)
        if not math.isfinite(np.add.reduce(known, axis=None, where=legal)):
            raise UnsoundScoresError("the policy's network returned scores that are not finite")
        counts = np.maximum(legal.sum(axis=1, keepdims=True), 1)
        with np.errstate(invalid="ignore"):  # a row of nothing legal is all -inf
            known -= np.maximum.reduce(known, axis=1, keepdims=True)
        found: Scores = np.exp(known, where=legal, out=np.zeros(scores.shape))
        totals = np.add.reduce(found, axis=1, keepdims=True)
        found *= (1.0 - self.floor) / np.maximum(totals, 1.0)
        found += legal * (self.floor / counts)
        return found


class Pool:
    """The placements that may still be drawn for a tournament, and what they weigh together.

    Attributes:
        pairs: (S, B), which they are.
        sites: (S,), which sites have any.
        counts: (S,), how many of each site were drawn.
        weights: (S, B), exp(score - the site's largest), 0 where nothing may be drawn; before the
            first draw.
        totals: (S,), their sums.
        together: (S,), the logarithm of the sum of a site's exp(score); now.
    """

    def __init__(self, scores: Scores, legal: Mask) -> None:
        self._scores = scores
        self.pairs = legal
        self.sites: Mask = np.any(legal, axis=1)
        self.counts = np.zeros(len(legal), dtype=np.int64)
        masked = np.where(legal, scores, -np.inf)
        peaks = masked.max(axis=1, initial=-np.inf, keepdims=True)
        peaks[~np.isfinite(peaks)] = 0.0
        self.weights: Scores = np.exp(masked - peaks)
        self.totals: Scores = self.weights.sum(axis=1)
        with np.errstate(divide="ignore"):
            self.together: Scores = np.log(self.totals) + peaks[:, 0]

    def copy(self) -> "Pool":
        """Return the same, to be drawn from."""
        found = copy(self)
        found.pairs, found.sites = self.pairs.copy(), self.sites.copy()
        found.counts, found.together = self.counts.copy(), self.together.copy()
        return found

    def take(self, site: int, blueprint: int) -> None:
        """Draw one."""
        self.pairs[site, blueprint] = False
        self.counts[site] += 1
        left = self._scores[site][self.pairs[site]]
        self.sites[site] = left.size > 0
        if left.size == 0:
            self.together[site] = -np.inf
            return
        peak = left.max()
        self.together[site] = np.log(np.exp(left - peak).sum()) + peak


Pick = Callable[[Scores], int]
"""Chooses one of several by their probabilities."""


def most_likely(probabilities: Scores) -> int:
    """Choose the likeliest; of equals the first."""
    return int(probabilities.argmax())


def drawn_by(uniform: Callable[[], float]) -> Pick:
    """Choose by chance, with numbers of [0, 1) from `uniform`."""

    def pick(probabilities: Scores) -> int:
        reached = probabilities.cumsum()
        index = int(reached.searchsorted(uniform() * reached[-1], side="right"))
        if index < probabilities.size:
            return index
        return int(np.flatnonzero(probabilities)[-1])  # rounding has carried past all of them

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
    pool = scored.pool()
    most = min(scored.state.most_candidates, MOST_CANDIDATES)
    found: list[Candidate] = []
    while len(found) < most and pool.sites.any():
        if found and _ask(heads, "candidates", scored.go_on(len(found)), pick) == 0:
            break
        site = _ask(heads, "site", scored.site(pool), pick)
        blueprint = _ask(heads, "blueprint", scored.blueprint(site, pool), pick)
        placement = scored.state.placements[site * pool.pairs.shape[1] + blueprint]
        blend = _ask(heads, "blend", scored.blend(site, blueprint, placement), pick)
        ramp = _ask(heads, "ramp", scored.ramp(site, blueprint), pick)
        pool.take(site, blueprint)
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
    for index in (-operations).argsort(kind="stable").tolist():
        name, chance = OPERATIONS[index], operations.item(index)
        if chance == 0.0 or (len(found) >= most and chance < found[most - 1][3]):
            break  # no alternative of this operation, or of one after it, is among the likeliest
        if index == NO_OP:
            found.append((name, None, None, chance))
        elif index == GERMINATE:
            found += _placements(scored, chance, most)
        else:
            targets = scored.targets()[index].tolist()
            found += [
                (name, seed.id, None, chance * probability)
                for seed, probability in zip(scored.state.seeds, targets, strict=False)
                if probability > 0.0
            ]
        found.sort(key=lambda entry: -entry[3])
    return found[:most]


def _placements(
    scored: Scored, chance: float, most: int
) -> list[tuple[Operation, str | None, str | None, float]]:
    together = (chance * scored.first_candidate()).ravel()  # (S B)
    least = np.partition(together, -most)[-most] if together.size > most else 0.0
    places = (together >= least).nonzero()[0]
    places = places[(-together[places]).argsort(kind="stable")[:most]]
    found: list[tuple[Operation, str | None, str | None, float]] = []
    for place in places.tolist():
        if together[place] > 0.0:
            placement = scored.state.placements[place]
            probability = float(together[place])
            found.append(("GERMINATE", placement.site, placement.blueprint, probability))
    return found
