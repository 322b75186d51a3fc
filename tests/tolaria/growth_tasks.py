"""Small tasks for the engine's tests, importable by a child process too."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from esper_async import Task
from tests.growth_hosts import Kind, make_batches, make_host

QUICK: dict[str, Any] = {
    "dwell_steps": 8,
    "shadow_every": 1,
    "ramp_boundaries": 2,
    "window_boundaries": 1,
    "max_windows": 1,
    "embargo_boundaries": 1,
    "g2_margin": -1e9,
    "g4_margin": -1e9,
    "warmup_steps": 4,
    "parameter_budget": 50.0,
}
BLUEPRINTS = ["BP001", "BP014", "BP021"]


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Return whether each sample is right (N,)."""
    return output.argmax(dim=1) == target


def listed(kind: Kind = "mlp", **changes: Any) -> Task:
    """Return a classification task whose loaders are lists."""
    batches = make_batches(kind, count=6)
    settings: dict[str, Any] = {
        "model": make_host(kind),
        "train_loader": batches[:4],
        "validation_loader": batches[4:],
        "loss": F.cross_entropy,
        "metrics": {"accuracy": accuracy},
        "primary_metric": "accuracy",
        "test_loader": make_batches(kind, count=2, seed=2),
    }
    return Task(**{**settings, **changes})


def shuffled(kind: Kind = "mlp", **changes: Any) -> Task:
    """Return the same with a DataLoader that draws its order from the global stream."""
    batches = make_batches(kind, count=6)
    inputs = torch.cat([batch[0] for batch in batches[:4]])
    targets = torch.cat([batch[1] for batch in batches[:4]])
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=16, shuffle=True)
    return listed(kind, train_loader=loader, **changes)


def regression(**changes: Any) -> Task:
    """Return a regression task: no accuracy anywhere."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(96, 6, generator=generator)
    targets = rows[:, :1] * rows[:, 1:2]  # (N, 1)
    batches = list(zip(rows.split(16), targets.split(16), strict=True))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    settings: dict[str, Any] = {
        "model": model,
        "train_loader": batches[:4],
        "validation_loader": batches[4:],
        "loss": F.mse_loss,
    }
    return Task(**{**settings, **changes})
