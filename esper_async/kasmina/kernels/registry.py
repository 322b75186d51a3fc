"""The registry of kernels: every blueprint once, and the quarantined ones apart."""

from collections.abc import Callable
from typing import TypeVar

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.blueprint import Blueprint
from esper_async.kasmina.kernels.kernel import Kernel

K = TypeVar("K", bound=type[Kernel])

# Filled by `register` while the package is imported, and never changed afterwards.
REGISTRY: dict[str, type[Kernel]] = {}
QUARANTINE: dict[str, type[Kernel]] = {}


class KernelRefusedError(ValueError):
    """A kernel was asked for that does not exist, does not fit, or may not be planted here."""


def register(blueprint: Blueprint) -> Callable[[K], K]:
    """Register the decorated kernel; adversarial and planted tiers go into quarantine.

    Raises:
        ValueError: the id or the name is already taken.
    """

    def put(kernel: K) -> K:
        for known in (*REGISTRY.values(), *QUARANTINE.values()):
            if blueprint.id == known.blueprint.id or blueprint.name == known.blueprint.name:
                raise ValueError(
                    f"{blueprint.id} {blueprint.name} is already taken by {known.__name__}"
                )
        kernel.blueprint = blueprint
        kernel.output = blueprint.output
        shelf = QUARANTINE if blueprint.tier in ("adversarial", "planted") else REGISTRY
        shelf[blueprint.id] = kernel
        return kernel

    return put


def kernel_class(blueprint_id: str, *, drill: bool = False) -> type[Kernel]:
    """Return the kernel registered under this id.

    Raises:
        KernelRefusedError: there is none, or it is quarantined and this is no drill.
    """
    if blueprint_id in QUARANTINE:
        if not drill:
            tier = QUARANTINE[blueprint_id].blueprint.tier
            raise KernelRefusedError(f"{blueprint_id} is {tier}: refused for every live run")
        return QUARANTINE[blueprint_id]
    if blueprint_id not in REGISTRY:
        raise KernelRefusedError(
            f"there is no kernel {blueprint_id!r}; there are {', '.join(sorted(REGISTRY))}"
        )
    return REGISTRY[blueprint_id]


def blueprints_for(interface: SiteInterface, *, drill: bool = False) -> tuple[Blueprint, ...]:
    """Return the blueprints that fit a site, in order of id; quarantined ones only in a drill."""
    offered = {**REGISTRY, **QUARANTINE} if drill else REGISTRY
    entries = (kernel.blueprint for _, kernel in sorted(offered.items()))
    return tuple(entry for entry in entries if entry.misfit(interface) is None)
