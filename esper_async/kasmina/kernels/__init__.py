"""The kernels: every blueprint's module, and how one is built.

Torch and this package are all that a grown model needs to be unpickled. One file holds one family;
importing the package registers them all. Adding a blueprint is adding a `@register`ed class to a
file named below.
"""

from esper_async.kasmina.kernels import (
    activation,
    adversarial,
    attention,
    block,
    choosing,
    convolution,
    gating,
    hierarchy,
    planted,
    projection,
    recurrence,
)
from esper_async.kasmina.kernels.blueprint import Blueprint, Output, Tier, positions
from esper_async.kasmina.kernels.build import build_kernel
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.registry import (
    QUARANTINE,
    REGISTRY,
    KernelRefusedError,
    blueprints_for,
    kernel_class,
    register,
)
from esper_async.kasmina.kernels.setting import Setting, SettingRefusedError

FAMILIES = (
    activation,
    adversarial,
    attention,
    block,
    choosing,
    convolution,
    gating,
    hierarchy,
    planted,
    projection,
    recurrence,
)

__all__ = [
    "FAMILIES",
    "QUARANTINE",
    "REGISTRY",
    "Blueprint",
    "Kernel",
    "KernelRefusedError",
    "Output",
    "Setting",
    "SettingRefusedError",
    "Tier",
    "blueprints_for",
    "build_kernel",
    "kernel_class",
    "positions",
    "register",
]
