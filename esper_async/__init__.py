"""Grow a PyTorch model while it trains.

The public names are in `__all__`; each is imported on first use, so that `import esper_async` costs
nothing and the supervisor never pulls in torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper_async.kasmina.compiling.choice import Compiling
    from esper_async.kasmina.distributed_ranks import DistributedRanks
    from esper_async.kasmina.micro_batches import MicroBatches
    from esper_async.tolaria.grow import grow
    from esper_async.tolaria.grower import Grower
    from esper_async.tolaria.grown import load_grown, save_grown
    from esper_async.tolaria.task import Task

__all__ = [
    "Compiling",
    "DistributedRanks",
    "Grower",
    "MicroBatches",
    "Task",
    "grow",
    "load_grown",
    "save_grown",
]

_HOMES = {
    "Compiling": "esper_async.kasmina.compiling.choice",
    "DistributedRanks": "esper_async.kasmina.distributed_ranks",
    "Grower": "esper_async.tolaria.grower",
    "MicroBatches": "esper_async.kasmina.micro_batches",
    "Task": "esper_async.tolaria.task",
    "grow": "esper_async.tolaria.grow",
    "load_grown": "esper_async.tolaria.grown",
    "save_grown": "esper_async.tolaria.grown",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
