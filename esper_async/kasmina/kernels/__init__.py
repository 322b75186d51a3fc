"""The kernels: every blueprint's module, and how one is built.

Torch and this package are all that a grown model needs to be unpickled. One file holds one family;
importing the package imports every file in it, and so registers them all. Adding a blueprint is
adding a `@register`ed class to a file of this folder, new or old.
"""

from importlib import import_module
from pkgutil import iter_modules

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

for _file in iter_modules(__path__):
    import_module(f"{__name__}.{_file.name}")

__all__ = [
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
