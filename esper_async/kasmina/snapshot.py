"""The tensors of a branch at one instant: what a trial can always go back to.

They lie in main memory, where they take nothing from a GPU, and are touched again only when there
is no twin to take over, or none that is finite.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from esper_async.kasmina.branch import Branch


class Snapshot:
    """A copy of a network's tensors and of the state of its optimizers.

    Args:
        branch: what is copied; it goes on independently.
    """

    def __init__(self, branch: Branch) -> None:
        self._content: dict[str, Any] = _copied(_content(branch))

    def spoilt_in(self, branch: Branch) -> list[str]:
        """Return the names of tensors in `branch` that are not finite, though they were here.

        On a device this waits for it. What holds an infinity by design, as a mask does, is sound.
        """
        before = dict(nested_tensors(self._content))
        return [
            name
            for name, tensor in nested_tensors(_content(branch))
            if not _finite(tensor) and (name not in before or _finite(before[name]))
        ]

    def restore(self, branch: Branch) -> None:
        """Bring a branch of the same topology back to this instant, in place.

        Learning rates and other settings of its optimizers stay. The snapshot must not be used
        afterwards: optimizers may go on with its tensors.
        """
        with torch.no_grad():
            for name, tensor in _named(branch.model).items():
                tensor.copy_(self._content["model"][name])
        for parameter in branch.model.parameters():
            parameter.grad = None
        for name, optimizer in branch.optimizers().items():
            groups = optimizer.param_groups  # a schedule may hold on to these very dictionaries
            state = self._content["optimizers"][name]
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            optimizer.param_groups = groups

    def state_dict(self) -> dict[str, Any]:
        """Return the copy; its tensors are shared."""
        return self._content

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a copy of what `state_dict` returned: `restore` uses its tensors up."""
        self._content = _copied(state)


def _content(branch: Branch) -> dict[str, Any]:
    optimizers = branch.optimizers().items()
    return {
        "model": _named(branch.model),
        "optimizers": {name: optimizer.state_dict()["state"] for name, optimizer in optimizers},
    }


def _named(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, those included that a state_dict leaves out."""
    return {name: t.detach() for name, t in (*model.named_parameters(), *model.named_buffers())}


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value


PLAIN = (int, float, str, bytes, type(None))
"""What holds no tensor. Most of a state is that, so it is asked for first: all else is slow to ask.
"""


MAPPINGS = (dict, Mapping)
"""What is no `dict` is slow to ask."""


def nested_tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield (place, tensor) for every tensor in nested containers."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(item, PLAIN):
                yield from nested_tensors(item, f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if not isinstance(item, PLAIN):
                yield from nested_tensors(item, f"{path}/{index}")


def bytes_in(value: Any) -> int:
    """Return what the tensors in nested containers take."""
    if isinstance(value, PLAIN):
        return 0
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, MAPPINGS):
        return sum(map(bytes_in, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(bytes_in, value))
    return 0


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
