"""What of a machine is part of a run's bits."""

from collections.abc import Mapping

import torch


def machine() -> dict[str, str | int]:
    """Return the torch threads and the processor's vector extension in use."""
    return {
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def machine_difference(saved: Mapping[str, str | int]) -> str | None:
    """Say what makes the rest of a resumed run differ in its bits here, if anything does."""
    now = machine()
    if saved["threads"] != now["threads"]:
        return f"{now['threads']} torch threads instead of {saved['threads']}"
    if saved["capability"] != now["capability"]:
        return f"processor capability {now['capability']} instead of {saved['capability']}"
    return None
