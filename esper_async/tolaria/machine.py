"""What of a machine is part of a run's bits."""

from collections.abc import Mapping

import torch

_NAMES = {
    "threads": "torch threads",
    "capability": "processor capability",
    "torch": "torch",
    "device": "device",
}


def machine(device: torch.device) -> dict[str, str | int]:
    """Return torch's version and threads, the processor's vector extension and the device."""
    on_cuda = device.type == "cuda"
    return {
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),  # a plain string: a checkpoint holds no classes
        "device": torch.cuda.get_device_name(device) if on_cuda else device.type,
    }


def machine_difference(saved: Mapping[str, str | int], device: torch.device) -> str | None:
    """Say what makes the rest of a resumed run differ in its bits here, if anything does."""
    for key, value in machine(device).items():
        if saved.get(key) != value:
            return f"{_NAMES[key]}: {value} instead of {saved.get(key, 'unknown')}"
    return None
