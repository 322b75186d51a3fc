"""What may be asked of one seed beyond planting and culling it.

An operation never decides what a gate decides: it may bring a judgement forward, hold something
where it is, or set a rate. One that cannot be carried out is refused, and changes nothing.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from esper_async.kasmina.planting import CommandRefusedError
from esper_async.kasmina.ramp import RAMP_SCHEDULES, RampSchedule
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.stage import ON_TRIAL, Stage

if TYPE_CHECKING:
    from esper_async.kasmina.executor import Executor

Verb = Literal[
    "FOSSILIZE",
    "START_TRAINING",
    "START_GRAFTING",
    "STABILIZE",
    "EVALUATE",
    "FINE_TUNE",
    "CANCEL",
]
VERBS: tuple[Verb, ...] = get_args(Verb)


@dataclass(frozen=True, slots=True)
class Tuning:
    """What FINE_TUNE sets: a seed's learning rate, the ramp of the one that is blended, or both.

    `ramp_boundaries` None keeps how long the ramp takes.
    """

    learning_rate: float | None = None
    ramp: RampSchedule | None = None
    ramp_boundaries: int | None = None


def operate(executor: "Executor", seed_id: str, verb: Verb, tuning: Tuning | None = None) -> None:
    """Carry out an operation on a seed.

    FOSSILIZE judges a PROBATIONARY seed by G4 on the window it has, and keeps it if it passes;
    START_GRAFTING ends the dwell of a seed's tournament: it is judged at the next boundary;
    STABILIZE holds alpha where it is, until FINE_TUNE gives it another ramp;
    EVALUATE measures at the next boundary what can be measured of the seed in its stage;
    FINE_TUNE sets a rate or a ramp;
    START_TRAINING lets a seed in GERMINATED begin, as the next one where no training slot is free;
    CANCEL removes a seed in GERMINATED.

    Raises:
        CommandRefusedError: there is no such seed, or it is in a stage that does not allow it.
    """
    if verb not in VERBS:
        raise CommandRefusedError(f"no operation {verb!r}; known: {', '.join(VERBS)}")
    seed = executor.seed(seed_id)
    if verb == "FINE_TUNE":
        _fine_tune(executor, seed, tuning or Tuning())
    else:
        _DEEDS[verb](executor, seed)


def pause(executor: "Executor", seed_id: str, *, paused: bool = True) -> None:
    """Freeze a seed's weights and alpha where they are, its clocks with them; or let it go on.

    Raises:
        CommandRefusedError: there is no such seed, or it is not TRAINING or on trial.
    """
    seed = executor.seed(seed_id)
    _require(seed, "pause" if paused else "resume", Stage.TRAINING, *ON_TRIAL)
    executor.hold(seed, paused=paused)


def pause_each(executor: "Executor", seed_ids: Iterable[str], *, paused: bool = True) -> None:
    """Freeze seeds, or let them go on; one that has gone meanwhile needs neither.

    Raises:
        CommandRefusedError: none of them can be; nothing was changed.
    """
    stages = (Stage.TRAINING, *ON_TRIAL)
    named = [executor.seeds[seed_id] for seed_id in seed_ids if seed_id in executor.seeds]
    living = [seed for seed in named if seed.stage in stages]
    if not living:
        raise CommandRefusedError("no seed that could be paused or go on is left of those named")
    for seed in living:
        executor.hold(seed, paused=paused)


def _fossilize(executor: "Executor", seed: Seed) -> None:
    _require(seed, "fossilize", Stage.PROBATIONARY)
    executor.judge_now(seed)


def _start_training(executor: "Executor", seed: Seed) -> None:
    _require(seed, "start training", Stage.GERMINATED)
    seed.hurried = True
    if executor.free_training_slots:
        executor.start_training(seed)


def _start_grafting(executor: "Executor", seed: Seed) -> None:
    _require(seed, "start grafting", Stage.TRAINING)
    for member in executor.in_stage(Stage.GERMINATED, Stage.TRAINING):
        if member.tournament == seed.tournament:
            member.hurried = True


def _stabilize(executor: "Executor", seed: Seed) -> None:
    _require(seed, "stabilize", Stage.BLENDING)
    assert executor.trial is not None
    executor.trial.held = True


def _evaluate(executor: "Executor", seed: Seed) -> None:
    _require(seed, "evaluate", Stage.TRAINING, *ON_TRIAL)
    seed.asked = True


def _cancel(executor: "Executor", seed: Seed) -> None:
    _require(seed, "cancel", Stage.GERMINATED)
    executor.cull(seed.id, "cancelled before it began to train")


def _fine_tune(executor: "Executor", seed: Seed, tuning: Tuning) -> None:
    _require(seed, "fine-tune", Stage.TRAINING, *ON_TRIAL)
    rate, schedule, boundaries = tuning.learning_rate, tuning.ramp, tuning.ramp_boundaries
    if rate is None and schedule is None and boundaries is None:
        raise CommandRefusedError("nothing to fine-tune: give a learning rate or a ramp")
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise CommandRefusedError(f"a learning rate is a number > 0, not {rate}")
    if schedule is not None and schedule not in RAMP_SCHEDULES:
        known = ", ".join(RAMP_SCHEDULES)
        raise CommandRefusedError(f"no ramp {schedule!r}; known: {known}")
    if boundaries is not None and boundaries < 1:
        raise CommandRefusedError(f"a ramp takes at least 1 boundary, not {boundaries}")
    if schedule is not None or boundaries is not None:
        _require(seed, "change the ramp", Stage.BLENDING)
        assert executor.trial is not None
        steps = None if boundaries is None else boundaries * executor.steps_per_boundary
        executor.trial.ramp_again(schedule, steps)
    if rate is not None:
        seed.given_rate = rate


_DEEDS: dict[Verb, Callable[["Executor", Seed], None]] = {
    "FOSSILIZE": _fossilize,
    "START_TRAINING": _start_training,
    "START_GRAFTING": _start_grafting,
    "STABILIZE": _stabilize,
    "EVALUATE": _evaluate,
    "CANCEL": _cancel,
}


def _require(seed: Seed, what: str, *stages: Stage) -> None:
    if seed.stage not in stages:
        allowed = ", ".join(stage.name for stage in stages)
        raise CommandRefusedError(
            f"cannot {what} seed {seed.id}: it is {seed.stage.name}, and that takes {allowed}"
        )
