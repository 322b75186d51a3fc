"""Kernels that act otherwise while training than in evaluation: dropout, and a norm by batch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.blueprint import Blueprint
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.layers import per_channel, silent
from esper_async.kasmina.kernels.registry import register
from esper_async.kasmina.kernels.setting import Setting


@register(
    Blueprint(
        id="BP004",
        name="dropout_light",
        stage=0,
        risk=0.2,
        output="replacement",
        description="Drops few values while training, and rescales every channel "
        "(Srivastava et al. 2014).",
        kinds=("spatial", "sequence", "feature"),
        settings=(Setting("percent", 1, 30, 5, "values dropped, in hundredths"),),
        start_exemption="what it drops it drops from its first pass on; alpha's ramp is its start",
    )
)
class DropoutLight(Kernel):
    """s = a * dropout(h), one gain per channel, starting at 1; in evaluation s = a * h."""

    def __init__(self, site: SiteInterface, percent: int) -> None:
        super().__init__()
        self.share = percent / 100
        self.scale = nn.Parameter(per_channel(site, torch.ones(site.channels)))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to its replacement."""
        return self.scale * F.dropout(h, self.share, self.training)


@register(
    Blueprint(
        id="BP006",
        name="batch_norm_1d",
        stage=0,
        risk=0.2,
        output="change",
        description="Adds each feature normalised over the batch, through a gain and a shift "
        "(Ioffe and Szegedy 2015).",
        kinds=("feature",),
    )
)
class BatchNorm1d(Kernel):
    """s = g * (h - mean) / std + b, with the batch's mean and std; in evaluation, running ones.

    A batch of one has no spread: it is normalised by the running statistics, too. Maps and
    sequences are not claimed: a norm without batch statistics serves them (BP003).
    """

    def __init__(self, site: SiteInterface) -> None:
        super().__init__()
        self.norm = silent(nn.BatchNorm1d(site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, F) to a change of it."""
        norm = self.norm
        return F.batch_norm(
            h,
            norm.running_mean,
            norm.running_var,
            norm.weight,
            norm.bias,
            training=bool(self.training and h.shape[0] > 1),
            momentum=0.1,
            eps=norm.eps,
        )
