"""Whether a twin fits: the bytes it needs, against growth's share of the device's whole memory.

Total memory is a property of the machine. How much of it is free at the moment is not asked for:
what else runs on the machine must not decide how a run is judged.
"""

import os
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from esper_async.kasmina.averaging import is_averaged
from esper_async.kasmina.branch import Branch
from esper_async.kasmina.snapshot import bytes_in
from esper_async.leyline.limits import LIMITS

_MB = 1e6


@dataclass(frozen=True, slots=True)
class TwinChoice:
    """Whether a trial has a twin, and on which bytes that was decided, if on any."""

    twin: bool
    needed_bytes: int | None = None
    budget_bytes: int | None = None

    @property
    def remark(self) -> str | None:
        """Say that memory forbade the twin; None if it did not."""
        if self.twin or self.needed_bytes is None or self.budget_bytes is None:
            return None
        needed, budget = self.needed_bytes / _MB, self.budget_bytes / _MB
        return f"no twin: it needs {needed:.1f} MB, and growth may take {budget:.1f} MB"

    @property
    def numbers(self) -> dict[str, float]:
        """The choice as a gate's numbers; empty where memory was not asked about."""
        if self.needed_bytes is None or self.budget_bytes is None:
            return {}
        return {
            "twin": float(self.twin),
            "twin_bytes": float(self.needed_bytes),
            "twin_budget_bytes": float(self.budget_bytes),
        }

    def to_state(self) -> dict[str, Any]:
        """Return the fields, for a checkpoint."""
        return asdict(self)


def choose_twin(
    branch: Branch, wanted: Literal["auto", "on", "off"], budget_bytes: int
) -> TwinChoice:
    """Decide whether a trial that begins on `branch` has a twin; only "auto" asks about memory."""
    if wanted != "auto":
        return TwinChoice(twin=wanted == "on")
    needed = twin_bytes(branch)
    return TwinChoice(needed <= budget_bytes, needed, budget_bytes)


def growth_budget_bytes(device: torch.device) -> int:
    """Return what growth may take of a device's memory."""
    return share_bytes("growth", device)


def share_bytes(share: str, device: torch.device) -> int:
    """Return a share of a device's memory by its name; other devices share the machine's own."""
    if device.type == "cuda":
        total = int(torch.cuda.get_device_properties(device).total_memory)
    else:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(LIMITS.memory_shares[share] * total)


def twin_bytes(branch: Branch) -> int:
    """Return what a twin of a branch would hold: weights, buffers, optimizer state, average."""
    weights = sum(parameter.nbytes for parameter in branch.model.parameters())
    buffers = list(branch.model.buffers())
    averaged = sum(buffer.nbytes for buffer in buffers if is_averaged(buffer))
    states = [optimizer.state for optimizer in branch.optimizers().values()]
    return 2 * weights + bytes_in([buffers, states]) + averaged
