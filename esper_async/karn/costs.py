"""What blueprints cost at an interface, as certificates measured it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from esper_async.karn.record import Cost, Interface

Certificates = Callable[[str], Iterable[Mapping[str, Any]]]
"""The certificates in force for an interface's key, newest first. It blocks on the disk."""


def certified_costs(certificates: Certificates, interface: Interface) -> dict[str, Cost]:
    """Return each blueprint's cost by its newest certificate for an interface.

    In single precision and the plain layout, on the CPU. What was not measured, or whose proof
    failed, is absent.
    """
    sizes = "x".join(str(size) for size in interface.shape)
    costs: dict[str, Cost] = {}
    for record in certificates(f"{interface.kind}-{sizes}-float32-contiguous"):
        if record["passed"] and record["device"] == "cpu":
            cost = Cost(record["parameter_count"], record["forward_flops"], record["training_ms"])
            costs.setdefault(record["blueprint_id"], cost)
    return costs
