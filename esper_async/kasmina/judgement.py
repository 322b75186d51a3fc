"""From what was measured to verdicts: the gates applied to seeds."""

import math
import statistics
from collections.abc import Iterable, Mapping

import torch

from esper_async.kasmina.evaluation import Evaluation
from esper_async.kasmina.gates import (
    GateResult,
    gradient_health,
    interface_holds,
    stability,
    system_impact,
)
from esper_async.kasmina.kernels import kernel_class
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.quantity import Quantity, paired_difference
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.trend import LossTrend
from esper_async.kasmina.trial import Trial

SPREAD_FACTOR = 2.0
"""G4's margin is at least so many times the spread of the benefit over the window's boundaries."""


def paired(results: Mapping[str, Evaluation], without: str, with_seed: str) -> Quantity | None:
    """Return the paired difference of two variants; None if one was not measured."""
    if without not in results or with_seed not in results:
        return None
    one, other = results[without], results[with_seed]
    return paired_difference(one.losses, other.losses, one.paired_by, one.unit)


def note_contributions(training: Iterable[Seed], results: Mapping[str, Evaluation]) -> set[Seed]:
    """Note the clean contributions that were measured; return whose they are."""
    measured = {seed for seed in training if f"shadow:{seed.id}" in results}
    for seed in measured:
        seed.clean_contribution = paired(results, "host", f"shadow:{seed.id}")
        seed.asked = False
    return measured


def trained_verdict(
    seed: Seed,
    results: Mapping[str, Evaluation],
    options: GrowthOptions,
    *,
    scale: float,
    boundary: int,
) -> GateResult:
    """Return G1's verdict if it fails, else G2's; both are noted on the seed."""
    record = seed.gradients
    health = gradient_health(
        parameters=seed.parameter_count,
        steps=record.steps,
        finite=None if record.finite is None else bool(record.finite),
        unreached=None if record.reached is None else int((~record.reached).sum()),
        exemption=kernel_class(seed.candidate.blueprint, drill=True).blueprint.gradient_exemption,
        boundary=boundary,
    )
    seed.gates.append(health)
    if not health.passed:
        return health
    verdict = stability(
        seed.clean_contribution,
        margin=options.g2_margin * scale,
        weight_rms=_weight_rms(seed),
        boundary=boundary,
        slowdown=_slowdown(results, "host", f"shadow:{seed.id}"),
        latency_budget=options.latency_budget,
    )
    seed.gates.append(verdict)
    return verdict


def _slowdown(results: Mapping[str, Evaluation], without: str, with_seed: str) -> float | None:
    """Return the time of a forward pass with a seed over that without; None if not timed."""
    one, other = results[without].pass_ms, results[with_seed].pass_ms
    return other / one if one and other is not None else None


def _weight_rms(seed: Seed) -> float:
    """Return the largest root mean square of a tensor among the kernel's parameters; 0 of none."""
    parameters = [parameter.detach() for parameter in seed.graft.parameters()]
    if not parameters:
        return 0.0
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(parameters)])
    counts = norms.new_tensor([parameter.numel() for parameter in parameters])
    return float((norms / counts.sqrt()).max())


def interface_verdict(results: Mapping[str, Evaluation], *, boundary: int) -> GateResult:
    """Return G3's verdict on the host as it is, with the seed on, and on the off-path."""
    on, off = results.get("host"), results.get("off")
    return interface_holds(
        on_loss=None if on is None else on.loss,
        off_loss=None if off is None else off.loss,
        on=None if on is None else on.site,
        off=None if off is None else off.site,
        boundary=boundary,
    )


def measure_benefit(
    trial: Trial, results: Mapping[str, Evaluation], trend: LossTrend, *, boundary: int
) -> None:
    """Note the benefit on the seed: against its twin, else against the trend before the trial."""
    if "averaged" not in results:
        return
    averaged = results["averaged"]
    if "twin" in results:
        trial.seed.benefit_vs_twin = paired(results, "twin", "averaged")
    else:
        trial.seed.benefit_vs_twin = trend.benefit(averaged.loss, boundary, averaged.unit)


def benefit_verdict(
    trial: Trial, options: GrowthOptions, *, scale: float, boundary: int
) -> GateResult:
    """Return G4's verdict on the window so far; it is noted on the seed.

    An interval over samples leaves out the noise of training itself. So the margin grows with the
    spread of the benefit over the boundaries of the window: what jumps about must clear more.
    One benefit in the window that is not finite, and nothing is enough.
    """
    margin = options.g4_margin * scale
    window = trial.benefits[-options.window_boundaries :]
    if not all(math.isfinite(benefit) for benefit in window):
        margin = math.inf
    elif len(window) > 1:
        margin = max(margin, SPREAD_FACTOR * statistics.stdev(window))
    gate = system_impact(trial.seed.benefit_vs_twin, margin=margin, boundary=boundary)
    trial.seed.gates.append(gate)
    return gate
