"""The optimizer of one seed: the host's kind and hyper-parameters, its own state and rate."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


def base_rate(optimizer: Optimizer) -> float:
    """Return the rate that the host's first group started with, or is to rise to.

    A one-cycle schedule begins at a fraction of the rate that it names as its highest.
    """
    group = optimizer.param_groups[0]
    return max(float(group.get("initial_lr", group["lr"])), float(group.get("max_lr", 0.0)))


def unrated(optimizer: Optimizer) -> str:
    """Say that an optimizer has no learning rates that could be set; nothing if it has them."""
    for index, group in enumerate(optimizer.param_groups):
        if "lr" not in group:
            known = ", ".join(sorted(group.keys() - {"params"})) or "none"
            return (
                f"{type(optimizer).__name__}, whose parameter group {index} has no 'lr' (its "
                f"settings: {known}): the rates of seeds follow the host's, so each group needs "
                f"its learning rate under that name"
            )
    return ""


def sibling_optimizer(host: Optimizer, parameters: Iterable[nn.Parameter]) -> Optimizer | None:
    """Build an optimizer of the host's kind over a seed's parameters; None if there are none.

    Its rate starts at 0: the learning-rate authority sets it. AdamW takes the place of an optimizer
    that needs a closure, or whose constructor cannot be called with its own defaults (a wrapper,
    say) or refuses these parameters.
    """
    owned = list(parameters)
    if not owned:
        return None
    kind: type[Optimizer] = torch.optim.AdamW if needs_closure(host) else type(host)
    accepted = _arguments(kind.__init__)
    settings: dict[str, Any] = {
        name: value
        for name, value in host.defaults.items()
        if name in accepted and name not in {"lr", "fused", "foreach"}
    }
    if issubclass(kind, _FUSED) and "fused" in accepted:
        settings["fused"] = True
    try:
        optimizer = kind(owned, lr=base_rate(host), **settings)  # type: ignore[call-arg]
    except (TypeError, ValueError):
        optimizer = torch.optim.AdamW(owned, lr=base_rate(host), fused=True)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    return optimizer


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether an optimizer's step asks for a closure that evaluates the loss, as LBFGS does."""
    closure = _arguments(type(optimizer).step).get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


@cache
def _arguments(function: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a function by name; to look them up takes a millisecond."""
    return inspect.signature(function).parameters
