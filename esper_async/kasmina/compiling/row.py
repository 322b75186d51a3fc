"""Rows of layers (`nn.Sequential`), whose output is that of their last layer.

A seed at the last layer of a row sits at the border of the row. What is compiled of a row leaves
the last layer's hooks out, and they run after it.
"""

from typing import Any

from torch import nn

from esper_async.kasmina.kernels.graft import GraftHook


def end_of(path: str, module: nn.Module) -> tuple[str, nn.Module]:
    """Return the module at whose output a region ends, and its path: a row's last, or itself.

    A row with somebody else's hooks at its end is no row: they may want to see the layer's input.
    Nor is one that has its last layer elsewhere, too.
    """
    end_path, end = path, module
    while type(end) is nn.Sequential and len(end):
        name, end = list(end._modules.items())[-1]
        end_path = f"{end_path}.{name}" if end_path else name
        if end._forward_pre_hooks or not all(map(_is_graft, end._forward_hooks.values())):
            return path, module
    times = sum(part is end for _, part in module.named_modules(remove_duplicate=False))
    return (end_path, end) if times == 1 else (path, module)


def _is_graft(hook: Any) -> bool:
    return isinstance(hook, GraftHook)


def run_row(row: nn.Sequential, value: Any) -> Any:
    """Return what a row makes of a value, without the hooks of its last layer."""
    *before, last = row
    for layer in before:
        value = layer(value)
    if type(last) is nn.Sequential:
        return run_row(last, value)
    return type(last).forward(last, value)


def run_hooks(end: nn.Module, value: Any) -> Any:
    """Return what the grafts at a row's end make of its output."""
    for hook in tuple(end._forward_hooks.values()):
        value = hook(end, (), value)
    return value
