"""The small convolutional host of the image tasks."""

from torch import Tensor, nn


class ImageHost(nn.Module):
    """Two convolution stages, an average pool and a linear head.

    Each stage halves the image; activations are (N, width, S/2, S/2), (N, width, S/4, S/4) and,
    pooled, (N, width, P, P). Small widths leave room to grow; at large ones there is none.
    """

    def __init__(self, width: int, *, pooled: int, classes: int) -> None:
        super().__init__()
        self.stage1 = _stage(1, width)
        self.stage2 = _stage(width, width)
        self.pool = nn.AdaptiveAvgPool2d(pooled)
        self.features = nn.Flatten()
        self.head = nn.Linear(width * pooled * pooled, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 1, S, S) to logits (N, classes)."""
        hidden = self.pool(self.stage2(self.stage1(images)))
        logits: Tensor = self.head(self.features(hidden))
        return logits


def _stage(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.ReLU())
