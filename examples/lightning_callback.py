"""Growth in PyTorch Lightning, from scratch: `python examples/lightning_callback.py`.

The module and the trainer are what they would be without growth; all that is new is a callback.
"""

from typing import Any

import lightning.pytorch as lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from esper_async.integrations.lightning import GrowerCallback

Batch = tuple[Tensor, Tensor]


class Digits(lightning.LightningModule):
    """A narrow network for handwritten digits: images (N, 64) to logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits; growth calls this."""
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss ()."""
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss."""
        images, labels = batch
        self.log("validation_loss", F.cross_entropy(self(images), labels), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer of the host; seeds get ones of their own."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def main(*, epochs: int = 30, quiet: bool = False, **options: Any) -> GrowerCallback:
    """Train and grow; `options` are further arguments of `Grower`."""
    lightning.seed_everything(0)
    images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
    data = TensorDataset(images.float() / 16, labels)  # (N, 64) and (N,)
    splits = random_split(data, [1397, 400])
    train, validation = DataLoader(splits[0], 32, shuffle=True), DataLoader(splits[1], 32)

    growth = GrowerCallback(loss=F.cross_entropy, **options)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=[growth],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=not quiet,
    )
    trainer.fit(Digits(), train, validation)

    grower = growth.grower
    assert grower is not None
    assert grower.executor is not None
    for report in growth.reports:
        loss = report.metrics["validation_loss"]
        print(f"epoch {report.boundary}: validation loss {loss:.3f}; {report.decision.reason}")
    print(f"{grower.executor.host_parameters} parameters before growth")
    for seed in grower.executor.kept:
        what = f"{seed.candidate.blueprint} at {seed.site.name}"
        print(f"{seed.parameter_count} more for {what}, which was kept")
    print(f"validation loss {grower.score(validation).loss:.3f} of what has grown")
    return growth


if __name__ == "__main__":
    main()
