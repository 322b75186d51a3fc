"""What a trajectory says of its steps: what each brought over what was expected of its state."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Returns:
    """Of T steps of one trajectory.

    Attributes:
        advantages: (T,), what a step brought over the value of its state.
        targets: (T,), what the values should have been.
    """

    advantages: Tensor
    targets: Tensor


def followers(values: Tensor, last_value: float) -> Tensor:
    """Return (T,): the values of the states that each step led to."""
    return torch.cat([values[1:], values.new_tensor([last_value])])
