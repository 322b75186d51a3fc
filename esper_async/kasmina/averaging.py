"""The exponential average of a network's weights, on which a trial is judged.

Raw weights make a comparison of two training branches a coin toss; their averages shrink the
spread of null pairs by most of an order of magnitude.
"""

from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """The running average of a module's parameters and finite float buffers.

    A buffer that holds an infinity (an attention mask, say) is no statistic and cannot be averaged.

    The decay grows from 0 to 1 - 1/`horizon_steps`, so that early averages are plain means.
    """

    def __init__(self, model: nn.Module, horizon_steps: int) -> None:
        self._model = model
        self._horizon = max(horizon_steps, 1)
        self.steps = 0
        self._live = averaged_tensors(model)
        self._average = {name: tensor.clone() for name, tensor in self._live.items()}

    def update(self) -> None:
        """Take the present weights into the average."""
        self.steps += 1
        weight = max(1.0 / self.steps, 1.0 / self._horizon)
        with torch.no_grad():
            torch._foreach_lerp_(list(self._average.values()), list(self._live.values()), weight)

    def tensors(self) -> dict[str, Tensor]:
        """Return the averaged parameters and buffers by name, ready to be swapped in."""
        return dict(self._average)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and its count of steps."""
        return {"steps": self.steps, "horizon": self._horizon, "average": self.tensors()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.steps = state["steps"]
        self._horizon = state["horizon"]
        for name, tensor in self._average.items():
            tensor.copy_(state["average"][name])


def averaged_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what is averaged of a module, by name: the live tensors themselves."""
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for name, buffer in model.named_buffers():
        if is_averaged(buffer):
            tensors[name] = buffer.detach()
    return tensors


def is_averaged(buffer: Tensor) -> bool:
    """Whether a buffer has an average: its values are numbers that may be between two others."""
    return buffer.is_floating_point() and bool(torch.isfinite(buffer).all())
