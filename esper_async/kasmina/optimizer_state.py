"""Loading an optimizer's state without sharing its tensors, in place wherever that is possible."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def load_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Take over what `optimizer.state_dict()` returned; `saved` can be loaded again later.

    `Optimizer.load_state_dict` goes on with the very tensors that it is given. Where the living
    state has the same form, as in a rollback, values are copied into it instead: no memory is
    asked for, and a schedule keeps the groups that it holds.
    """
    living = optimizer.state_dict()
    if not _same_form(living, saved):
        optimizer.load_state_dict(copy.deepcopy(dict(saved)))
        return
    for index, entry in living["state"].items():
        for name, value in saved["state"][index].items():
            if isinstance(value, Tensor):
                entry[name].copy_(value)
            else:
                entry[name] = value
    for group, settings in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        group.update({name: value for name, value in settings.items() if name != "params"})


def _same_form(living: Mapping[str, Any], saved: Mapping[str, Any]) -> bool:
    mine, theirs = living["state"], saved["state"]
    groups = [[group["params"] for group in each["param_groups"]] for each in (living, saved)]
    return (
        groups[0] == groups[1]
        and mine.keys() == theirs.keys()
        and all(_shapes(mine[index]) == _shapes(theirs[index]) for index in mine)
    )


def _shapes(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: (value.shape, value.dtype) if isinstance(value, Tensor) else type(value)
        for name, value in entry.items()
    }
