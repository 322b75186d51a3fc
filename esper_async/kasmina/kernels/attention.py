"""Attention between positions, alone and in transformer blocks; causal on sequences."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.block import GatedFeedforward
from esper_async.kasmina.kernels.blueprint import Blueprint, positions
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.layers import local, norm, pointwise, silent
from esper_async.kasmina.kernels.registry import register
from esper_async.kasmina.kernels.setting import KERNEL_SIZE, Setting, Widened

_MOST_POSITIONS = 1024
_SHARED_WIDTH = Setting("width", 8, 512, Widened(1, 32), "channels over all heads, rounded up")


class Attention(nn.Module):
    """Scaled dot-product attention over a site's positions; starts at zero.

    A spatial site's positions get a learned embedding (attention is blind to where things are);
    a sequence host brings its own, and may be shorter than the site's interface says.
    """

    def __init__(self, site: SiteInterface, *, heads: int, head_width: int) -> None:
        super().__init__()
        channels, width = site.channels, heads * head_width
        self.causal = site.kind == "sequence"
        self.heads = heads
        self.norm = norm(site, channels)
        self.place = None
        if not self.causal:
            self.place = nn.Parameter(0.1 * torch.randn(positions(site), channels))
        self.ask = nn.Linear(channels, 3 * width, bias=False)
        self.answer = silent(nn.Linear(width, channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, C, H, W) or (N, T, D) to a change of it."""
        tokens = self.norm(h)
        if self.place is not None:
            tokens = tokens.flatten(2).transpose(1, 2) + self.place  # (N, H*W, C)
        asked = self.ask(tokens)  # (N, P, 3 * heads * width)
        asked = asked.view(*asked.shape[:2], 3, self.heads, -1)
        query, key, value = asked.permute(2, 0, 3, 1, 4).unbind(0)  # each (N, heads, P, width)
        heard = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        change: Tensor = self.answer(heard.transpose(1, 2).flatten(2))  # (N, P, C)
        return change if self.causal else change.transpose(1, 2).reshape(h.shape)


class _Attending(Kernel):
    """s = attention(norm(h))."""

    def __init__(self, site: SiteInterface, *, heads: int, head_width: int) -> None:
        super().__init__()
        self.attention = Attention(site, heads=heads, head_width=head_width)

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        change: Tensor = self.attention(h)
        return change


@register(
    Blueprint(
        id="BP020",
        name="attention_single_head",
        stage=2,
        risk=0.5,
        output="change",
        description="One head of attention between positions (Vaswani et al. 2017).",
        kinds=("spatial", "sequence"),
        settings=(Setting("head_width", 4, 256, Widened(1, 32), "channels of the head"),),
        least_channels=2,
        least_positions=2,
        most_positions=_MOST_POSITIONS,
    )
)
class AttentionSingleHead(_Attending):
    """One head."""

    def __init__(self, site: SiteInterface, head_width: int) -> None:
        super().__init__(site, heads=1, head_width=head_width)


@register(
    Blueprint(
        id="BP022",
        name="multi_head_attention_4",
        stage=3,
        risk=0.5,
        output="change",
        description="Four heads of attention between positions (Vaswani et al. 2017).",
        kinds=("spatial", "sequence"),
        settings=(_SHARED_WIDTH,),
        least_channels=2,
        least_positions=2,
        most_positions=_MOST_POSITIONS,
    )
)
class MultiHeadAttention4(_Attending):
    """Four heads."""

    def __init__(self, site: SiteInterface, width: int) -> None:
        super().__init__(site, heads=4, head_width=-(-width // 4))


@register(
    Blueprint(
        id="BP029",
        name="multi_head_attention_8",
        stage=4,
        risk=0.5,
        output="change",
        description="Eight heads of attention between positions (Vaswani et al. 2017).",
        kinds=("spatial", "sequence"),
        settings=(_SHARED_WIDTH,),
        least_channels=2,
        least_positions=2,
        most_positions=_MOST_POSITIONS,
    )
)
class MultiHeadAttention8(_Attending):
    """Eight heads."""

    def __init__(self, site: SiteInterface, width: int) -> None:
        super().__init__(site, heads=8, head_width=-(-width // 8))


@register(
    Blueprint(
        id="BP023",
        name="transformer_block",
        stage=3,
        risk=0.5,
        output="change",
        description="Attention between positions, then a wide gated layer at each "
        "(Vaswani et al. 2017).",
        kinds=("spatial", "sequence"),
        settings=(
            Setting("heads", 1, 16, 4, "heads of attention"),
            Setting("attention_width", 8, 512, Widened(1, 32), "channels over all heads"),
            Setting("width", 4, 2048, Widened(2, 64), "hidden channels of the wide layer"),
        ),
        least_channels=2,
        least_positions=2,
        most_positions=_MOST_POSITIONS,
    )
)
class TransformerBlock(Kernel):
    """a = attention(norm(h)); s = a + feedforward(norm(h + a))."""

    def __init__(self, site: SiteInterface, heads: int, attention_width: int, width: int) -> None:
        super().__init__()
        self.attention = Attention(site, heads=heads, head_width=-(-attention_width // heads))
        self.feedforward = GatedFeedforward(site, width)

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        heard: Tensor = self.attention(h)
        change: Tensor = heard + self.feedforward(h + heard)
        return change


@register(
    Blueprint(
        id="BP024",
        name="conv_transformer",
        stage=3,
        risk=0.5,
        output="change",
        description="A convolution, then attention between positions, then a wide gated layer at "
        "each (Gulati et al. 2020; Wu et al. 2021).",
        kinds=("spatial", "sequence"),
        settings=(
            Setting("heads", 1, 16, 4, "heads of attention"),
            _SHARED_WIDTH,
            Setting("local_width", 4, 512, Widened(1, 16), "hidden channels of the convolution"),
            KERNEL_SIZE,
        ),
        least_channels=2,
        least_positions=2,
        most_positions=_MOST_POSITIONS,
    )
)
class ConvTransformer(Kernel):
    """c = W gelu(conv norm(h)); a = attention(norm(h + c)); s = c + a + feedforward(h + c + a)."""

    def __init__(
        self, site: SiteInterface, heads: int, width: int, local_width: int, kernel_size: int
    ) -> None:
        super().__init__()
        channels = site.channels
        self.norm = norm(site, channels)
        self.look = local(site, channels, local_width, kernel_size=kernel_size)
        self.tell = silent(pointwise(site, local_width, channels))
        self.attention = Attention(site, heads=heads, head_width=-(-width // heads))
        self.feedforward = GatedFeedforward(site, width)

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        seen: Tensor = self.tell(F.gelu(self.look(self.norm(h))))
        heard = seen + self.attention(h + seen)
        change: Tensor = heard + self.feedforward(h + heard)
        return change


@register(
    Blueprint(
        id="BP034",
        name="non_local_block",
        stage=4,
        risk=0.5,
        output="change",
        description="Adds to every position a mean of all others, weighted by how alike they are "
        "(Wang et al. 2018).",
        kinds=("spatial", "sequence"),
        settings=(Setting("width", 4, 512, Widened(1, 32), "channels compared"),),
        least_positions=2,
        least_channels=2,
        most_positions=_MOST_POSITIONS,
    )
)
class NonLocalBlock(Kernel):
    """s = W softmax(theta(h) phi(h)^T) g(h), without positions and without scaling."""

    def __init__(self, site: SiteInterface, width: int) -> None:
        super().__init__()
        self.causal = site.kind == "sequence"
        self.norm = norm(site, site.channels)
        self.compare = pointwise(site, site.channels, 3 * width)
        self.bring = silent(pointwise(site, width, site.channels))

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, *shape) to a change of it."""
        compared = self.compare(self.norm(h))
        if not self.causal:
            compared = compared.flatten(2).transpose(1, 2)  # (N, H*W, 3 * width)
        theta, phi, g = compared.chunk(3, dim=-1)
        mean = F.scaled_dot_product_attention(theta, phi, g, is_causal=self.causal, scale=1.0)
        if not self.causal:
            mean = mean.transpose(1, 2)  # (N, width, H*W)
            mean = mean.reshape(*mean.shape[:2], *h.shape[2:])
        change: Tensor = self.bring(mean)
        return change
