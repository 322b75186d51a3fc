"""What is looked at: six signals between 0 and 1, each with the reason that it gives for acting.

A signal that was not measured is None. It is never taken for 0: whoever weighs it leaves it out,
and says so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from esper_async.karn.catalogue import Catalogue
from esper_async.kasmina.stage import Stage
from esper_async.tamiyo.command import Command, Germinate
from esper_async.tamiyo.view import View

SignalName = Literal[
    "gradient_stability",
    "performance_drift",
    "resource_pressure",
    "latency",
    "lifecycle",
    "blueprint_risk",
]
SIGNALS: tuple[SignalName, ...] = get_args(SignalName)
_DECADES = 3.0
"""A gradient norm a thousand times its usual one is as unstable as can be told."""
_FIRST_NORM = 10.0
"""What counts as usual before there was a gradient; that of a sound kernel is smaller."""
_LOSS_DOUBLED = 1.0
_TIGHT_MEMORY, _NO_MEMORY = 0.20, 0.05
_SLOW_MS, _FAST_MS = 60.0, 12.0
_BUSY_SEEDS = 8
_UNKNOWN_RISK = 0.5


@dataclass(frozen=True, slots=True)
class Signal:
    """One measurement of risk; `catastrophe` is one that no weighing may soften."""

    name: SignalName
    value: float | None
    reason_code: str
    detail: str
    catastrophe: bool = False


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a view does not tell. A deterministic run has none of it; None was not measured.

    `bus_backlog` is the share of the bus's outgoing queue that is full, `missed_deadlines` the
    decisions in a row that came too late, `disruptions` the seeds that were removed after blending
    and the rollbacks of the last boundaries.
    """

    bus_backlog: float | None = None
    missed_deadlines: int | None = None
    disruptions: int = 0


@dataclass(frozen=True, slots=True)
class Usual:
    """What has been usual in a run so far: running levels, None before there are any."""

    gradient_norm: float | None = None
    validation_loss: float | None = None


def measure(
    view: View, command: Command, surroundings: Surroundings, usual: Usual, catalogue: Catalogue
) -> list[Signal]:
    """Return every signal of a boundary, in the order of `SIGNALS`."""
    return [
        _gradients(view, usual.gradient_norm),
        _drift(view, usual.validation_loss),
        _resources(view),
        _latency(view, surroundings),
        _lifecycle(view, surroundings),
        _blueprints(view, command, catalogue),
    ]


def largest_gradient(view: View) -> float | None:
    """Return the largest gradient norm among the seeds in training; None where none was measured.

    One that is not finite is infinite. A paused seed has none: its last one is no news.
    """
    norms = [
        seed.gradient_norm
        for seed in view.seeds
        if seed.stage is Stage.TRAINING and not seed.paused and seed.gradient_norm is not None
    ]
    if not norms:
        return None
    return max(norm if math.isfinite(norm) else math.inf for norm in norms)


def _gradients(view: View, usual: float | None) -> Signal:
    largest = largest_gradient(view)
    if largest is None:
        return Signal("gradient_stability", None, "gradient_not_measured", "no seed trains")
    if largest == math.inf:
        detail = "a seed's gradient is not finite"
        return Signal("gradient_stability", 1.0, "gradient_not_finite", detail)
    level = usual or _FIRST_NORM
    decades = math.log10(max(largest, 1e-30) / level)
    detail = f"a seed's gradient norm is {largest:.3g}, usual is {level:.3g}"
    return Signal("gradient_stability", _within(decades / _DECADES), "gradient_unstable", detail)


def _drift(view: View, usual: float | None) -> Signal:
    if not view.validation_losses:
        return Signal("performance_drift", None, "loss_not_measured", "no boundary yet")
    loss = view.validation_losses[-1]
    training = view.training_losses[-1] if view.training_losses else loss
    if not (math.isfinite(loss) and math.isfinite(training)):
        detail = f"the losses are {loss} in validation and {training} in training"
        return Signal("performance_drift", 1.0, "loss_not_finite", detail, catastrophe=True)
    if usual is None:
        return Signal("performance_drift", 0.0, "loss_usual", f"{loss:.4g}, the first")
    drift = (loss - usual) / max(abs(usual), 1e-9)
    detail = f"the validation loss is {loss:.4g}, usual is {usual:.4g}"
    return Signal("performance_drift", _within(drift / _LOSS_DOUBLED), "loss_drift", detail)


def _resources(view: View) -> Signal:
    available = None if view.machine is None else view.machine.memory_available
    if available is None:
        return Signal("resource_pressure", None, "memory_not_measured", "not looked at")
    pressure = (_TIGHT_MEMORY - available) / (_TIGHT_MEMORY - _NO_MEMORY)
    detail = f"{available:.1%} of the memory is available"
    return Signal("resource_pressure", _within(pressure), "memory_pressure", detail)


def _latency(view: View, surroundings: Surroundings) -> Signal:
    took = None if view.machine is None else view.machine.decision_ms
    missed, backlog = surroundings.missed_deadlines, surroundings.bus_backlog
    found = [
        (None if took is None else (took - _FAST_MS) / (_SLOW_MS - _FAST_MS), "slow_inference",
         f"the last decision took {took or 0.0:.1f} ms"),
        (None if missed is None else float(missed > 0), "missed_deadline",
         f"{missed or 0} decisions in a row were too late"),
        (None if backlog is None else 0.7 * backlog, "bus_stalled",
         f"the outgoing queue of the bus is {backlog or 0.0:.0%} full"),
    ]  # fmt: skip
    known = [(_within(value), code, words) for value, code, words in found if value is not None]
    if not known:
        return Signal("latency", None, "latency_not_measured", "not looked at")
    value, code, words = max(known, key=lambda entry: entry[0])
    return Signal("latency", value, code, words)


def _lifecycle(view: View, surroundings: Surroundings) -> Signal:
    living = sum(seed.stage is not Stage.FOSSILIZED for seed in view.seeds)
    trial = 0.2 if view.on_trial() else 0.0
    disturbed = 0.3 * surroundings.disruptions
    value = _within(trial + disturbed + 0.2 * living / _BUSY_SEEDS)
    detail = f"{living} seeds live, {surroundings.disruptions} disruptions of late"
    return Signal("lifecycle", value, "disruptions" if disturbed else "seeds_alive", detail)


def _blueprints(view: View, command: Command, catalogue: Catalogue) -> Signal:
    names = [seed.blueprint for seed in view.seeds if seed.stage is not Stage.FOSSILIZED]
    if isinstance(command, Germinate):
        names += [candidate.blueprint for candidate in command.candidates]
    if not names:
        return Signal("blueprint_risk", 0.0, "no_blueprint", "nothing is planted")
    risks = blueprint_risks(names, catalogue)
    worst = max(risks, key=lambda name: risks[name])
    detail = f"{worst} is graded {risks[worst]:.1f}"
    return Signal("blueprint_risk", risks[worst], "blueprint_risk", detail)


def blueprint_risks(names: Sequence[str], catalogue: Catalogue) -> Mapping[str, float]:
    """Return the catalogue's grades; a blueprint it does not know counts as middling."""
    records = {name: catalogue.find(name) for name in names}
    return {
        name: _UNKNOWN_RISK if record is None else record.risk for name, record in records.items()
    }


def _within(value: float) -> float:
    return min(max(value, 0.0), 1.0)
