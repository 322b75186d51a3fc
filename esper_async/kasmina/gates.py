"""The gates of a seed's life: pure judgements on measured numbers, each with its reason.

A number that was not measured fails its gate.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from esper_async.kasmina.probe import SiteStatistics
from esper_async.kasmina.quantity import Quantity

GateName = Literal["G0", "slot", "round", "G1", "G2", "ramp", "G3", "G4", "G5"]
MOST_SITE_GROWTH = 100.0
LEAST_SITE_SPREAD = 0.01
"""How far a blended seed may change the scale of what its site gives (see `interface_holds`).

The factors of sound ones lay between 0.96 and 2.7, in nine trials of the default run and in 48 on
small hosts.
"""
MOST_WEIGHT_RMS = 100.0
"""A kernel one of whose tensors has a larger root mean square is not stable."""
SPOILT_TWIN = "spoilt_twin_tensors"
"""Number of a gate: tensors of the twin that were not finite when it was to be adopted."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """What a gate decided at which boundary, on which numbers, and why."""

    name: GateName
    passed: bool
    reason: str
    numbers: Mapping[str, float | None]
    boundary: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; a number that is not finite becomes None."""
        return {
            "name": self.name,
            "passed": self.passed,
            "reason": self.reason,
            "boundary": self.boundary,
            "numbers": {
                key: value if value is not None and math.isfinite(value) else None
                for key, value in self.numbers.items()
            },
        }


def gradient_health(
    *,
    parameters: int,
    steps: int,
    finite: bool | None,
    unreached: int | None,
    exemption: str | None = None,
    boundary: int,
) -> GateResult:
    """G1: gradients finite, and every tensor reached within the first 20 shadow steps.

    `exemption` is why a blueprint declares that some of its tensors need not be.
    """
    numbers = {
        "parameters": float(parameters),
        "shadow_steps": float(steps),
        "unreached_tensors": None if unreached is None else float(unreached),
    }
    if parameters == 0:
        return GateResult("G1", True, "not applicable: no parameters", numbers, boundary)
    if steps == 0 or finite is None or unreached is None:
        return GateResult("G1", False, "gradients were not measured", numbers, boundary)
    if not finite:
        return GateResult("G1", False, "a gradient was not finite", numbers, boundary)
    if unreached and exemption is not None:
        reason = f"finite; {unreached} tensors received no gradient, and need none: {exemption}"
        return GateResult("G1", True, reason, numbers, boundary)
    if unreached:
        reason = f"{unreached} tensors received no gradient within 20 steps"
        return GateResult("G1", False, reason, numbers, boundary)
    return GateResult("G1", True, "finite, and every tensor is reached", numbers, boundary)


def stability(
    contribution: Quantity | None,
    *,
    margin: float,
    weight_rms: float,
    boundary: int,
    slowdown: float | None = None,
    latency_budget: float | None = None,
) -> GateResult:
    """G2: weights bounded, latency in budget, the contribution's lower bound above `margin`.

    `weight_rms` is the root mean square of the kernel's largest tensor by that measure, 0 without
    parameters. Sound weights are of the order of 1; those that ran away may still do no harm today.
    `margin` is below 0. `slowdown` is the time of a forward pass with the seed, over that without;
    without a `latency_budget` nobody looks at it.
    """
    numbers: dict[str, float | None] = {"margin": margin, "weight_rms": weight_rms}
    if latency_budget is not None:
        numbers |= {"slowdown": slowdown, "latency_budget": latency_budget}
    if not weight_rms <= MOST_WEIGHT_RMS:
        reason = f"its weights have run away: a tensor's root mean square is {weight_rms:.3g}"
        return GateResult("G2", False, reason, numbers, boundary)
    if contribution is None:
        return GateResult("G2", False, "clean contribution not measured", numbers, boundary)
    if latency_budget is not None and (slowdown is None or not slowdown <= latency_budget):
        told = (
            "was not timed" if slowdown is None else f"takes {slowdown:.3g} times as long with it"
        )
        reason = f"too slow: a forward pass {told}; the budget is {latency_budget:g}"
        return GateResult("G2", False, reason, numbers, boundary)
    numbers |= {"mean": contribution.mean, "low": contribution.low, "high": contribution.high}
    if contribution.low > margin:
        return GateResult("G2", True, "does no harm when switched on", numbers, boundary)
    return GateResult("G2", False, "would harm when switched on", numbers, boundary)


def interface_holds(
    *,
    on_loss: float | None,
    off_loss: float | None,
    on: SiteStatistics | None,
    off: SiteStatistics | None,
    boundary: int,
) -> GateResult:
    """G3: with the seed on and with it off, outputs are finite, and the site's keep their form.

    `on` and `off` are what comes out of the site on the two paths: of the same shapes, the root
    mean square with the seed on at most `MOST_SITE_GROWTH` times that without it, the standard
    deviation at least `LEAST_SITE_SPREAD` times.
    """
    numbers: dict[str, float | None] = {"on_loss": on_loss, "off_loss": off_loss}
    if on_loss is None or off_loss is None or on is None or off is None:
        return GateResult("G3", False, "on-path or off-path not measured", numbers, boundary)
    growth, spread = _ratio(on.rms, off.rms), _ratio(on.std, off.std)
    numbers |= {
        "on_mean": on.mean, "on_std": on.std, "on_not_finite": on.not_finite,
        "off_mean": off.mean, "off_std": off.std, "off_not_finite": off.not_finite,
        "growth": growth, "spread": spread,
    }  # fmt: skip
    if not (math.isfinite(on_loss) and math.isfinite(off_loss)):
        reason = "on-path or off-path is not finite"
    elif not on.not_finite == off.not_finite == 0.0:
        reason = f"{max(on.not_finite, off.not_finite):.2%} of the site's outputs are not finite"
    elif on.shapes != off.shapes:
        reason = f"the site's output is of shape {on.shapes[-1]}, not {off.shapes[-1]}"
    elif not growth <= MOST_SITE_GROWTH:
        reason = f"the site's output has exploded: it is {growth:.3g} times that without the seed"
    elif not spread >= LEAST_SITE_SPREAD:
        reason = (
            f"the site's output has collapsed: it varies {spread:.3g} times as without the seed"
        )
    else:
        return GateResult("G3", True, "on-path and off-path hold", numbers, boundary)
    return GateResult("G3", False, reason, numbers, boundary)


def _ratio(on: float, off: float) -> float:
    """Return on / off; 1 where there was nothing before, which has no scale to keep to."""
    return 1.0 if off == 0.0 else on / off


def system_impact(benefit: Quantity | None, *, margin: float, boundary: int) -> GateResult:
    """G4: the lower bound of the benefit against the twin is above `margin`.

    An estimated benefit (no twin) must clear twice the margin.
    """
    numbers: dict[str, float | None] = {"margin": margin}
    if benefit is None:
        return GateResult("G4", False, "benefit not measured", numbers, boundary)
    needed = 2 * margin if benefit.estimated else margin
    numbers |= {
        "margin": needed,
        "mean": benefit.mean,
        "low": benefit.low,
        "high": benefit.high,
    }
    if benefit.low > needed:
        return GateResult("G4", True, "better than without the seed", numbers, boundary)
    return GateResult("G4", False, "not shown to be better than without it", numbers, boundary)


def reset_done(*, left: Mapping[str, int], boundary: int) -> GateResult:
    """G5: of a removed seed nothing is left; `left` counts traces by where they are."""
    numbers: dict[str, float | None] = {name: float(count) for name, count in left.items()}
    found = [f"{name.replace('_', ' ')}: {count}" for name, count in left.items() if count]
    if found:
        reason = f"a trace of the seed is left ({', '.join(found)}): its site stays closed"
        return GateResult("G5", False, reason, numbers, boundary)
    return GateResult("G5", True, "no trace left", numbers, boundary)
