"""The small convolutional host of the image tasks."""

from torch import Tensor, nn


class ImageHost(nn.Module):
    """Convolution stages, an average pool and a linear head.

    The first stage has the given stride, further ones keep the size; activations are
    (N, width, S / stride, S / stride), pooled to (N, width, P, P). One narrow stage leaves room
    to grow; with a few wide ones there is none.
    """

    def __init__(
        self, width: int, *, depth: int, kernel_size: int, stride: int, pooled: int, classes: int
    ) -> None:
        super().__init__()
        self.stem = _stage(1, width, kernel_size, stride)
        self.stages = nn.Sequential(*(_stage(width, width, 3, 1) for _ in range(depth - 1)))
        self.pool = nn.AdaptiveAvgPool2d(pooled)
        self.features = nn.Flatten()
        self.head = nn.Linear(width * pooled * pooled, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 1, S, S) to logits (N, classes)."""
        hidden = self.pool(self.stages(self.stem(images)))
        logits: Tensor = self.head(self.features(hidden))
        return logits


def _stage(channels: int, width: int, kernel_size: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size, stride=stride, padding=kernel_size // 2), nn.ReLU()
    )
