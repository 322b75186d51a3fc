"""Calling a host on a batch: as it is, or with other parameters and buffers in its place."""

import copy
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from esper_async.kasmina.compiling.region import plainly
from esper_async.kasmina.user_code import blame

_SEQUENCE = (tuple, list)  # a constant: a union would be made anew for every batch
Forward = Callable[[nn.Module, Any], tuple[Tensor, Tensor]]


class BatchError(ValueError):
    """A batch is not one that the forward function understands."""


def default_forward(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """Run a batch (input, target); an input that is a tuple or dict is spread over arguments.

    Raises:
        BatchError: the batch is not a pair.
    """
    if not isinstance(batch, _SEQUENCE) or len(batch) != 2:
        raise BatchError(
            f"a batch should be (input, target), not {describe(batch)}; "
            f"give the task a forward(model, batch) that returns (output, target)"
        )
    source, target = batch
    if isinstance(source, Tensor):
        return model(source), target
    if isinstance(source, Mapping):
        return model(**source), target
    if isinstance(source, tuple | list):
        return model(*source), target
    return model(source), target


def describe(value: Any) -> str:
    """Return a few words about a value, for messages: its type and shape or length."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dict with the keys {sorted(map(str, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def run_forward(forward: Forward, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """Run a batch through a forward function.

    Raises:
        BatchError: the batch is not one that it understands, or it returns no pair.
        UserCodeError: it raised.
    """
    try:  # costs a step nothing, where a context manager would
        result = forward(model, batch)
    except BatchError:
        raise
    except Exception as error:
        what = "model.forward" if forward is default_forward else "forward"
        blame(what, error)
        raise
    if not isinstance(result, _SEQUENCE) or len(result) != 2:
        raise BatchError(f"forward should return (output, target), not {describe(result)}")
    output, target = result
    return output, target


def contents(batch: Any) -> str:
    """Return a few words about what a batch holds, for messages."""
    if isinstance(batch, _SEQUENCE) and len(batch) <= 4:
        return f"({', '.join(map(describe, batch))})"
    return f"({describe(batch)})"


class Call(nn.Module):
    """A host together with its forward function, as one module.

    It is what `functional_call` needs in order to swap tensors under a forward function that is not
    the module's own. It holds the host without owning it: make one where it is needed.

    The host is run as it is written, also where training runs compiled regions of it: what one
    evaluation compares is computed in one way, and other tensors, modes and shapes compile nothing.
    """

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model = model
        self.run = forward

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return (output, target) of a batch."""
        with plainly():
            return run_forward(self.run, self.model, batch)

    def with_tensors(self, tensors: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, Tensor]:
        """Return (output, target) with `tensors` (named as in the host) in place of its own."""
        swapped = {f"model.{name}": tensor for name, tensor in tensors.items()}
        return cast(tuple[Tensor, Tensor], functional_call(self, swapped, (batch,)))


def detached_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters by name as views that no gradient reaches; they share storage."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def cloned_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the buffers by name."""
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


def trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return those parameters that ask for a gradient."""
    return [parameter for parameter in parameters if parameter.requires_grad]


def first_batch_size(batch: Any) -> int:
    """Return the size of the first dimension of the first tensor found in a batch.

    Raises:
        BatchError: there is no tensor with a dimension in it.
    """
    if isinstance(batch, _SEQUENCE) and batch and isinstance(batch[0], Tensor) and batch[0].ndim:
        return batch[0].shape[0]
    pending = [batch]
    while pending:
        value = pending.pop(0)
        if isinstance(value, Tensor) and value.ndim:
            return value.shape[0]
        if isinstance(value, Mapping):
            pending[:0] = list(value.values())
        elif isinstance(value, tuple | list):
            pending[:0] = list(value)
    raise BatchError(f"no tensor found in the batch, which is {describe(batch)}")


def move(batch: Any, device: torch.device) -> Any:
    """Return the batch with every tensor on `device`; tensors already there are the very same."""
    if isinstance(batch, _SEQUENCE) and all(
        isinstance(value, Tensor) and value.device == device for value in batch
    ):
        return batch

    def there(tensor: Tensor) -> Tensor:
        return tensor if tensor.device == device else tensor.to(device, non_blocking=True)

    return map_tensors(batch, there)


def contiguous(batch: Any) -> Any:
    """Return the batch with every tensor in the plain memory layout."""
    return map_tensors(batch, lambda tensor: tensor.contiguous())


def map_tensors(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a batch, or a part of one, with every tensor changed; what holds them is kept."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, _SEQUENCE):
        changed = [map_tensors(value, change) for value in batch]
        return type(batch)(*changed) if hasattr(batch, "_fields") else type(batch)(changed)
    if isinstance(batch, Mapping):
        changed_values = {key: map_tensors(value, change) for key, value in batch.items()}
        return _mapping_like(batch, changed_values)
    return batch


def _mapping_like(batch: Mapping[Any, Any], changed: dict[Any, Any]) -> Any:
    """Return `changed` as what the batch was: a tokenizer's batch has attributes, a dict none."""
    if type(batch) is dict or not isinstance(batch, MutableMapping):
        return changed
    made = copy.copy(batch)
    made.update(changed)
    return made
