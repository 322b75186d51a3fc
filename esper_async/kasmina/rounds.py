"""The rounds of a tournament: how long candidates train until some of them are dropped.

A "full" tournament has one round: all of its candidates train for their whole dwell, then the best
goes on trial. "halving" is successive halving (Jamieson and Talwalkar 2016, "Non-stochastic Best
Arm Identification and Hyperparameter Optimization", Algorithm 1): the better half goes on after
each of ⌈log2 n⌉ rounds of n candidates, and every round gets the same share of all shadow passes,
so that it is the longer the fewer are left. Of an odd number the larger half goes on.

One thing is added. Kernels start as if they were not there, and the first passes tell who is quick,
not who is good; so the first round lasts until rates have warmed up and every tensor must have
received a gradient, and the others share what is left of the dwell.

In which round a tournament is follows from who is left: nothing of it has to be saved.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple

from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import GRADIENT_GRACE_STEPS, Seed
from esper_async.kasmina.stage import CANDIDATE, Stage


class Round(NamedTuple):
    """A round: over once every candidate has trained for so many steps; so many are left then."""

    steps: int
    places: int

    @property
    def last(self) -> bool:
        """Whether who is left goes on trial."""
        return self.places == 1


def rounds(count: int, options: GrowthOptions) -> list[Round]:
    """Return the rounds of a tournament of `count` candidates; the last ends with their dwell."""
    dwell, first = options.dwell_steps, _least_steps(options)
    if options.tournament == "full" or count < 3 or first >= dwell:
        return [Round(dwell, 1)]
    number = math.ceil(math.log2(count))
    fields = [-(-count // 2**index) for index in range(number + 1)]  # of eight: 8, 4, 2, 1
    passes = list(accumulate(Fraction(1, field) for field in fields[:-1]))
    ends = [dwell * each / passes[-1] for each in passes]
    if ends[0] < first:
        shrunk = (dwell - first) / (dwell - ends[0])
        ends = [dwell - shrunk * (dwell - end) for end in ends]
    return [Round(math.ceil(end), places) for end, places in zip(ends, fields[1:], strict=True)]


def _least_steps(options: GrowthOptions) -> int:
    """Return how many steps the first round lasts at least."""
    if options.first_round_steps == "auto":
        return options.warmup_steps + GRADIENT_GRACE_STEPS * options.shadow_every
    return options.first_round_steps


def present_rounds(seeds: Iterable[Seed], options: GrowthOptions) -> dict[str, Round]:
    """Return in which round each tournament is that has candidates; `seeds` are all of a run's.

    It is the next one that leaves fewer than there are, or the latest of those that are over.
    """
    planted: Counter[str] = Counter()
    left: dict[str, list[Seed]] = {}
    for seed in seeds:
        planted[seed.tournament] += 1
        if seed.stage in CANDIDATE:
            left.setdefault(seed.tournament, []).append(seed)
    return {
        name: _present(members, rounds(planted[name], options)) for name, members in left.items()
    }


def _present(members: Sequence[Seed], of_all: Sequence[Round]) -> Round:
    to_come = [each for each in of_all if each.places < len(members)] or of_all[-1:]
    ended = [each for each in to_come if all(_trained_for(each, seed) for seed in members)]
    return ended[-1] if ended else to_come[0]


def _trained_for(end: Round, seed: Seed) -> bool:
    if seed.stage is not Stage.TRAINING or seed.paused:
        return False
    return seed.stage_steps >= end.steps or seed.hurried


def has_trained(seed: Seed, present: Mapping[str, Round]) -> bool:
    """Whether a candidate has trained for the present round of its tournament."""
    return _trained_for(present[seed.tournament], seed)


def over(seeds: Sequence[Seed], present: Mapping[str, Round]) -> list[tuple[Round, list[Seed]]]:
    """Return the rounds that are over, with who is in them; `seeds` are the candidates of a run."""
    members: dict[str, list[Seed]] = {}
    for seed in seeds:
        members.setdefault(seed.tournament, []).append(seed)
    return [
        (present[name], group)
        for name, group in members.items()
        if all(has_trained(seed, present) for seed in group)
    ]
