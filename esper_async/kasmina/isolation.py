"""Isolation samples: whether a shadow pass left its host exactly as it was.

By structure a shadow pass cannot touch the host; this looks, now and then, whether that holds. A
write in place raises a tensor's version, which costs nothing to compare. What is written past
autograd's counting (through `.data`, or by code outside torch) is not seen.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esper_async.kasmina.gates import GateResult
from esper_async.kasmina.seed import Seed

IN_A_ROW = 3
"""So many samples of a seed with a trace, one after the other, quarantine its blueprint."""
VIOLATIONS = "isolation_violations"
"""Number of a gate: samples in a row in which a seed had touched its host."""
_NAMED = 3


class _Mark(NamedTuple):
    """A tensor at one instant: which it is, where its values lie, how often they were written."""

    tensor: Tensor  # held, so that no other one can be given its identity
    address: int
    version: int

    def is_same(self, other: object) -> bool:
        return (
            isinstance(other, _Mark)
            and self.tensor is other.tensor
            and self.address == other.address
            and self.version == other.version
        )


Fingerprint = Mapping[str, object]


def fingerprint(model: nn.Module) -> Fingerprint:
    """Return, by its name, each thing of a host's that a shadow pass must leave alone.

    Parameters, their gradients and buffers as marks, modes of modules, torch's global random state.
    No value is read: nothing waits for a device.
    """
    found: dict[str, object] = {}
    for name, parameter in model.named_parameters():
        found[f"the parameter {name}"] = _mark(parameter)
        found[f"the gradient of {name}"] = _mark(parameter.grad)
    for name, buffer in model.named_buffers():
        found[f"the buffer {name}"] = _mark(buffer)
    for name, module in model.named_modules():
        found[f"the mode of {name or 'the model'}"] = module.training
    found["torch's random numbers"] = torch.get_rng_state().numpy().tobytes()
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["CUDA's random numbers"] = torch.cuda.get_rng_state().numpy().tobytes()
    return found


def traces(before: Fingerprint, after: Fingerprint) -> list[str]:
    """Return the names of what is no longer what it was, or was not there before."""
    names = dict.fromkeys([*before, *after])
    return [name for name in names if not _same(before.get(name), after.get(name))]


def is_due(seed: Seed, every: int) -> bool:
    """Whether a seed's next shadow pass is one that is looked at.

    Its first is, then each `every`-th; after one that left a trace, every one until one leaves
    none.
    """
    return seed.shadow_passes % every == 0 or seed.violations > 0


def watched(
    model: nn.Module, seed: Seed, every: int, shadow_pass: Callable[[], object]
) -> list[str]:
    """Do a seed's shadow pass; return what of the host it touched, if this one is looked at.

    The seed counts its violations in a row.
    """
    due = is_due(seed, every)
    seed.shadow_passes += 1
    if not due:
        shadow_pass()
        return []
    before = fingerprint(model)
    shadow_pass()
    found = traces(before, fingerprint(model))
    seed.violations = seed.violations + 1 if found else 0
    return found


def isolation_verdict(seed: Seed, found: Sequence[str], *, boundary: int) -> GateResult:
    """G2, of a seed that touches its host; `found` is what it touched last."""
    numbers = {VIOLATIONS: float(seed.violations), "shadow_passes": float(seed.shadow_passes)}
    reason = (
        f"quarantined: it touched its host in {seed.violations} shadow passes in a row, in the "
        f"last one {' and '.join(found[:_NAMED])}"
    )
    return GateResult("G2", False, reason, numbers, boundary)


def _mark(tensor: Tensor | None) -> _Mark | None:
    if tensor is None:
        return None
    address = tensor.data_ptr() if tensor.layout is torch.strided else 0
    version = 0 if tensor.is_inference() else tensor._version
    return _Mark(tensor, address, version)


def _same(one: object, other: object) -> bool:
    return one.is_same(other) if isinstance(one, _Mark) else one == other
