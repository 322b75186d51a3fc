"""A small module and its fits with PyTorch Lightning, with growth or without."""

from importlib import import_module
from typing import Any

import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from esper_async.integrations.lightning import GrowerCallback
from tests.growth_hosts import make_batches, make_host
from tests.tolaria.growth_tasks import BLUEPRINTS, QUICK

FOREVER = {**QUICK, "dwell_steps": 10_000}
"""Seeds stay in TRAINING."""


def make_module(package: str = "lightning.pytorch", host: nn.Module | None = None) -> Any:
    """Return a module for rows (N, 6) in 3 classes: batch norm and dropout, if it is not given."""
    library = import_module(package)

    class Module(library.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = make_host("mlp") if host is None else host

        def forward(self, rows: Tensor) -> Tensor:
            logits: Tensor = self.net(rows)
            return logits

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = F.cross_entropy(self(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("validation_loss", F.cross_entropy(self(batch[0]), batch[1]))

        test_step = validation_step

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
            return {"optimizer": optimizer, "lr_scheduler": schedule}

    return Module()


def plain_host() -> nn.Module:
    """Return a host that draws no random numbers, the same bits each time."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
        )


def data(*, shuffle: bool = True, count: int = 6) -> tuple[Any, Any]:
    """Return loaders of 16 training and 32 validation rows a batch."""
    batches = make_batches("mlp", count=count)
    rows = torch.cat([batch[0] for batch in batches])
    labels = torch.cat([batch[1] for batch in batches])
    both = TensorDataset(rows, labels)
    return DataLoader(both, 16, shuffle=shuffle), DataLoader(both, 32)


def make_callback(certificates: Any, **changes: Any) -> GrowerCallback:
    """Return a callback that grows quickly."""
    settings: dict[str, Any] = {
        "seed": 3,
        "growth": QUICK,
        "blueprints": BLUEPRINTS,
        "certificates": certificates,
        "progress": lambda done, total, what: None,
    }
    return GrowerCallback(loss=F.cross_entropy, **{**settings, **changes})


def make_trainer(*callbacks: Any, package: str = "lightning.pytorch", **changes: Any) -> Any:
    """Return a quiet trainer."""
    settings: dict[str, Any] = {
        "max_epochs": 6,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": any(isinstance(each, Checkpoint) for each in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": list(callbacks),
    }
    return import_module(package).Trainer(**{**settings, **changes})


def fit(
    callback: GrowerCallback | None,
    *,
    host: nn.Module | None = None,
    loaders: Any = None,
    **options: Any,
) -> Any:
    """Fit a fresh module with one callback or none; return it."""
    module = make_module(host=host)
    torch.manual_seed(11)
    make_trainer(*([] if callback is None else [callback]), **options).fit(
        module, *(loaders or data())
    )
    return module
