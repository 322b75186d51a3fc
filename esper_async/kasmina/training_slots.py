"""Who trains where there are fewer training slots than candidates: the others wait their turn."""

from collections.abc import Mapping, Sequence

from esper_async.kasmina.gates import GateResult
from esper_async.kasmina.rounds import Round, has_trained
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.stage import Stage


def free_slots(training: Sequence[Seed], *, slots: int) -> int:
    """Return how many more of the seeds could train; one that stands down has no slot."""
    return max(0, slots - sum(not seed.stood_down for seed in training))


def take_turns(
    training: Sequence[Seed], waiting: Sequence[Seed], *, slots: int, present: Mapping[str, Round]
) -> list[Seed]:
    """Give free slots to seeds that wait, hurried ones first, then the oldest; return who begins.

    A round is over once all who are in it have trained for it. So that the last of them get to,
    seeds that have stand down where another waits: they are not trained any more. One that stood
    down and is in the next round waits like the others, and goes on where it was. `present` are
    the rounds that tournaments are in.
    """
    free = free_slots(training, slots=slots)
    trained = {seed for seed in training if has_trained(seed, present)}
    resting = [s for s in training if s.stood_down and not s.paused and s not in trained]
    line = sorted([*resting, *waiting], key=lambda seed: not seed.hurried)
    done = [seed for seed in training if seed in trained and not seed.stood_down]
    making_room = done[: max(0, len(line) - free)]
    turn = line[: free + len(making_room)]
    for seed in making_room:
        seed.stood_down = True
    for seed in turn:
        seed.stood_down = False
    return [seed for seed in turn if seed.stage is Stage.GERMINATED]


def slot_gate(seed: Seed, *, training: int, slots: int, boundary: int) -> GateResult | None:
    """Return the gate that lets a seed begin which has had to wait; None for one that has not."""
    if seed.born_boundary == boundary:
        return None
    numbers = {"training": float(training), "slots": float(slots)}
    return GateResult("slot", True, "a training slot is free", numbers, boundary)
