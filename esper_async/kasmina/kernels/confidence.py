"""A learned gate: how far a kernel is trusted on the activation at hand."""

import torch
from torch import Tensor, nn

_BORN_OPEN = 3.0
"""The sigmoid of it is .95: a gate that starts half shut would halve its kernel's gradient."""


class ConfidenceGate(nn.Module):
    """g(h) in (0, 1): a logistic unit over the features of an activation.

    Over a map (N,C,H,W) or (N,C,L) it sees each channel's mean and gives one number a sample; over
    a sequence (N,T,D) one a position; over features (N,F) one a sample. The last dimensions of what
    it returns are 1, so that it can be multiplied with the activation.
    """

    def __init__(self, channels: int, *, channels_last: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.full((), _BORN_OPEN))
        self._channels_last = channels_last

    def forward(self, activation: Tensor) -> Tensor:
        """Return the gate's value of an activation."""
        if self._channels_last or activation.ndim == 2:  # (N,T,D), (N,F)
            logit = (activation * self.weight).sum(dim=-1, keepdim=True)
        else:  # (N,C,H,W), (N,C,L)
            means = activation.flatten(2).mean(dim=2)  # (N, C)
            logit = (means * self.weight).sum(dim=1)
            logit = logit.reshape(-1, *(1,) * (activation.ndim - 1))
        return torch.sigmoid(logit + self.bias)
