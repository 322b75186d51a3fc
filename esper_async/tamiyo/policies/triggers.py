"""What may bring on another tournament of the `heuristic`, where a run declares it.

Each trigger is a rule for when growing pays that was published for growing networks:

- plateau: the validation loss has stopped falling (Wen et al. 2020, "AutoGrow: Automatic layer
  growing in deep convolutional networks", section 3.2, grow where a network has converged).
- gradient: the host's gradients have become small beside what they were: what there is has little
  left to learn (Evci et al. 2022, "GradMax: Growing neural networks using gradient information",
  section 3, on the gradients that growing is there to raise).
- gap: the training loss is hardly below the validation loss: the net underfits (Wu et al. 2024,
  "When to grow? A fitting risk-aware policy for layer growing in deep neural networks").

What was not measured brings nothing on.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from esper_async.tamiyo.view import View

Trigger = Literal["plateau", "gradient", "gap"]
TRIGGERS: tuple[Trigger, ...] = get_args(Trigger)
PLATEAU_BOUNDARIES = 5
PLATEAU_LEAST = 0.01
"""A lowest loss that is not lower by this share of itself is not lower."""
SMALL_GRADIENT = 0.25
"""Of the largest root mean square that the host's gradients have had."""
UNDERFITS = 0.9
"""A training loss above this share of the validation loss leaves hardly a gap."""


def gradient_level(view: View) -> float | None:
    """Return the root mean square over the sites' last gradients; None where none was measured."""
    found = [rms for rms in view.gradient_rms.values() if math.isfinite(rms)]
    return math.sqrt(math.fsum(rms**2 for rms in found) / len(found)) if found else None


def fired(trigger: Trigger, view: View, largest_gradient: float | None) -> str | None:
    """Return in words why a trigger has fired; None where it has not.

    `largest_gradient` is the largest `gradient_level` of the run so far.
    """
    return _RULES[trigger](view, largest_gradient)


def _plateau(view: View, _: float | None) -> str | None:
    losses = view.validation_losses
    if len(losses) <= PLATEAU_BOUNDARIES:
        return None
    before, recent = min(losses[:-PLATEAU_BOUNDARIES]), min(losses[-PLATEAU_BOUNDARIES:])
    if recent > before - PLATEAU_LEAST * abs(before):
        return f"no lower loss over {PLATEAU_BOUNDARIES} boundaries"
    return None


def _gradient(view: View, largest: float | None) -> str | None:
    level = gradient_level(view)
    if level is None or largest is None or level > SMALL_GRADIENT * largest:
        return None
    return f"the host's gradients are {level:.2g}, and were {largest:.2g}"


def _gap(view: View, _: float | None) -> str | None:
    if not view.training_losses or not view.validation_losses:
        return None
    training, validation = view.training_losses[-1], view.validation_losses[-1]
    if validation > 0 and training >= UNDERFITS * validation:
        return f"the training loss is {training / validation:.0%} of the validation loss"
    return None


_RULES: Mapping[Trigger, Callable[[View, float | None], str | None]] = {
    "plateau": _plateau,
    "gradient": _gradient,
    "gap": _gap,
}
