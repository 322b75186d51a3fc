"""What a run's device looks like at a boundary; what was not measured is left out."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import torch

from esper_async.tamiyo.view import MachineView


def hardware_context(device: torch.device) -> dict[str, Any]:
    """Return device, memory in bytes and capability, under the names of `HardwareContext`."""
    found = {"device_type": device.type, "device_id": str(device)}
    if device.type == "cuda":
        available, total = torch.cuda.mem_get_info(device)
        major, minor = torch.cuda.get_device_capability(device)
        return found | {
            "memory_total_bytes": total,
            "memory_available_bytes": available,
            "compute_capability": f"{major}.{minor}",
        }
    told = available_bytes()
    memory = {} if told is None else {"memory_available_bytes": told}
    return found | memory | _lasting()


@cache
def _lasting() -> dict[str, Any]:
    """Return what stays as it is while a process runs."""
    return {
        "memory_total_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "compute_capability": torch.backends.cpu.get_cpu_capability(),
    }


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return the bytes that a process could get without swapping, caches included.

    None where the system does not tell, as macOS.
    """
    try:
        text = meminfo.read_text()
    except OSError:
        return None
    _, _, told = text.partition("\nMemAvailable:")
    return int(told.split(maxsplit=1)[0]) * 1024 if told else None


def machine_view(device: torch.device, decision_ms: float | None) -> MachineView:
    """Return what a policy and the risk engine may see of the device."""
    found = hardware_context(device)
    total, available = found.get("memory_total_bytes"), found.get("memory_available_bytes")
    share = None if not total or available is None else available / total
    return MachineView(memory_available=share, decision_ms=decision_ms)
