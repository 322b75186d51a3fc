"""Who trains where there are fewer training slots than candidates: the others wait their turn."""

from collections.abc import Sequence
from typing import NamedTuple

from esper_async.kasmina.gates import GateResult
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.tournament import has_trained


class Turns(NamedTuple):
    """Who begins to train now, and who makes room: it has trained, and waits for its judgement."""

    start: list[Seed]
    stand_down: list[Seed]


def free_slots(training: Sequence[Seed], *, slots: int) -> int:
    """Return how many more of the seeds could train; one that stands down has no slot."""
    return max(0, slots - sum(not seed.stood_down for seed in training))


def turns(
    training: Sequence[Seed], waiting: Sequence[Seed], *, slots: int, dwell_steps: int
) -> Turns:
    """Give free slots to seeds that wait, those that were hurried first, then the oldest.

    A tournament is judged once all of its members have trained. So that the last of them get to,
    seeds whose dwell is over stand down where another waits: they are not trained any more.
    """
    free = free_slots(training, slots=slots)
    line = sorted(waiting, key=lambda seed: not seed.hurried)
    done = [seed for seed in training if not seed.stood_down and has_trained(seed, dwell_steps)]
    stand_down = done[: max(0, len(line) - free)]
    return Turns(line[: free + len(stand_down)], stand_down)


def slot_gate(seed: Seed, *, training: int, slots: int, boundary: int) -> GateResult | None:
    """Return the gate that lets a seed begin which has had to wait; None for one that has not."""
    if seed.born_boundary == boundary:
        return None
    numbers = {"training": float(training), "slots": float(slots)}
    return GateResult("slot", True, "a training slot is free", numbers, boundary)
