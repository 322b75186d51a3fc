"""Small hosts, their batches and a plain training loop: what the growth tests grow."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

Kind = Literal["conv2d", "conv1d", "mlp", "attention"]
Batch = tuple[Tensor, Tensor]
CLASSES = 3


class Conv2dHost(nn.Module):
    """Two convolutions with batch norm and dropout; (N, 2, 6, 6) to (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 2, 6, 6) to logits (N, 3)."""
        hidden = self.drop(self.body(self.stem(images))).mean(dim=(2, 3))  # (N, 8)
        logits: Tensor = self.head(hidden)
        return logits


class Conv1dHost(nn.Module):
    """A convolution over a signal with batch norm and dropout; (N, 1, 12) to (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(1, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU())
        self.pool = nn.MaxPool1d(2)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8 * 6, CLASSES)

    def forward(self, signals: Tensor) -> Tensor:
        """Map signals (N, 1, 12) to logits (N, 3)."""
        hidden = self.drop(self.pool(self.stem(signals))).flatten(1)  # (N, 48)
        logits: Tensor = self.head(hidden)
        return logits


class MlpHost(nn.Module):
    """Linear layers with batch norm and dropout; (N, 6) to (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 8)
        )
        self.head = nn.Linear(8, CLASSES)

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows (N, 6) to logits (N, 3)."""
        logits: Tensor = self.head(torch.relu(self.body(rows)))
        return logits


class AttentionHost(nn.Module):
    """A transformer layer with dropout and a batch norm behind it; tokens (N, 5) to (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (N, 5) to logits (N, 3)."""
        hidden = self.norm(self.encoder(self.embed(tokens)).mean(dim=1))  # (N, 8)
        logits: Tensor = self.head(hidden)
        return logits


@dataclass(frozen=True, slots=True)
class HostCase:
    """A host, the submodule at which a seed is planted, and with which blueprints."""

    kind: Kind
    build: Callable[[], nn.Module]
    site: str
    blueprints: tuple[str, ...]


CASES: dict[Kind, HostCase] = {
    "conv2d": HostCase("conv2d", Conv2dHost, "stem", ("BP015", "BP009")),
    "conv1d": HostCase("conv1d", Conv1dHost, "stem", ("BP031", "BP022")),
    "mlp": HostCase("mlp", MlpHost, "body", ("BP021", "BP014")),
    "attention": HostCase("attention", AttentionHost, "encoder", ("BP020", "BP023")),
}


def make_host(kind: Kind, *, seed: int = 0) -> nn.Module:
    """Return a host in training mode, the same bits for the same seed; global state is kept."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CASES[kind].build()


def make_batches(kind: Kind, *, count: int = 8, size: int = 16, seed: int = 0) -> list[Batch]:
    """Return `count` batches whose labels a network can learn from their inputs."""
    generator = torch.Generator().manual_seed(seed)
    return [_batch(kind, size, generator) for _ in range(count)]


def _batch(kind: Kind, size: int, generator: torch.Generator) -> Batch:
    if kind == "attention":
        tokens = torch.randint(0, 11, (size, 5), generator=generator)
        return tokens, tokens[:, 0] % CLASSES
    shapes = {"conv2d": (2, 6, 6), "conv1d": (1, 12), "mlp": (6,)}
    inputs = torch.randn(size, *shapes[kind], generator=generator)
    flat = inputs.flatten(1)
    scores = torch.stack([flat[:, 0] * flat[:, 1], flat[:, 2], -flat[:, 3]], dim=1)  # (N, 3)
    return inputs, scores.argmax(dim=1)


def plain_step(
    model: nn.Module, optimizer: Optimizer, batch: Any, *, clip_norm: float | None = 0.5
) -> Tensor:
    """Forward, backward, clip, step: what anybody writes; return the loss ()."""
    inputs, targets = batch
    loss = F.cross_entropy(model(inputs), targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if clip_norm is not None:
        owned = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(owned, clip_norm)
    optimizer.step()
    return loss.detach()


def differing(one: Any, other: Any, path: str = "") -> list[str]:
    """Return the paths at which two states of tensors and values differ in their bits."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [path]
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [f"{path}: {sorted(map(str, one.keys() ^ other.keys()))}"]
        return [line for key in one for line in differing(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return [f"{path}: {len(one)} and {len(other)} entries"]
        pairs: Iterable[tuple[Any, Any]] = zip(one, other, strict=True)
        return [
            line for index, pair in enumerate(pairs) for line in differing(*pair, f"{path}/{index}")
        ]
    return [] if one == other else [path]
