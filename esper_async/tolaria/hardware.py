"""What a run's device looks like at a boundary; what was not measured is left out."""

import os
from typing import Any

import torch


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
    page = os.sysconf("SC_PAGE_SIZE")
    memory = {
        f"memory_{name}_bytes": os.sysconf(key) * page
        for name, key in (("total", "SC_PHYS_PAGES"), ("available", "SC_AVPHYS_PAGES"))
        if key in os.sysconf_names  # macOS does not tell what is available
    }
    return found | memory | {"compute_capability": torch.backends.cpu.get_cpu_capability()}
