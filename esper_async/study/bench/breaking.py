"""Ways to break growth that more than one benchmark must catch."""

from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from esper_async.kasmina import executor
from esper_async.kasmina.call import Forward
from esper_async.kasmina.evaluation import Variant
from esper_async.kasmina.gates import GateResult, system_impact
from esper_async.kasmina.kernels.graft import Graft
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.trial import Trial
from esper_async.study.bench.benchmark import Mutant, replaced

_whole_forward = Graft.forward
_whole_variants = Trial.variants


def _absent(graft: Graft, activation: Tensor, **given: bool) -> Tensor:
    return activation + 0.0 * _whole_forward(graft, activation, **given)


def _without_benefit(trial: Trial, forward: Forward) -> dict[str, Variant]:
    found = _whole_variants(trial, forward)
    return {name: variant for name, variant in found.items() if name == "off"}


def _reads_dependence(
    trial: Trial, options: GrowthOptions, *, scale: float, boundary: int
) -> GateResult:
    margin = options.g4_margin * scale
    gate = system_impact(trial.seed.dependence, margin=margin, boundary=boundary)
    trial.seed.gates.append(gate)
    return gate


def _dependence_gate() -> AbstractContextManager[Any]:
    return replaced(f"{executor.__name__}.benefit_verdict", _reads_dependence)


KERNEL_ABSENT = Mutant(
    "kernel never enters the forward",
    "the graft hands the host's own activation on",
    lambda: replaced("esper_async.kasmina.kernels.graft.Graft.forward", _absent),
)
BENEFIT_UNMEASURED = Mutant(
    "benefit never measured",
    "the trial is not evaluated, so its gate fails closed and nothing is ever kept",
    lambda: replaced("esper_async.kasmina.trial.Trial.variants", _without_benefit),
)
DEPENDENCE_READ = Mutant(
    "gate reads dependence",
    "a seed is kept because the host cannot do without it any more",
    _dependence_gate,
)
