"""Growth from a pretrained checkpoint: `python examples/pretrained.py`.

A small vision transformer learns to tell the digits 0 to 4, is saved, and is loaded again, as a
checkpoint of anybody's would be. Then it learns all ten, and grows where they do not fit in. What
has grown is put into a fresh copy of the checkpoint at the end. Nothing is downloaded.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Subset, TensorDataset, random_split
from transformers import ViTConfig, ViTForImageClassification

from esper_async import Grower, load_grown, save_grown

Batch = tuple[Tensor, Tensor]


def forward(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return logits (N, 10) and labels (N,): a transformers model returns more than a tensor."""
    images, labels = batch
    return model(pixel_values=images).logits, labels


def train_step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> Tensor:
    """Take one optimizer step; return the loss ()."""
    optimizer.zero_grad()
    loss = F.cross_entropy(*forward(model, batch))
    loss.backward()
    optimizer.step()
    return loss.detach()


@torch.no_grad()
def loss_of(model: nn.Module, batches: DataLoader[Batch]) -> float:
    """Return the mean loss, image by image."""
    model.eval()
    losses = [F.cross_entropy(*forward(model, batch), reduction="none") for batch in batches]
    return float(torch.cat(losses).mean())


def pretrain(batches: DataLoader[Batch], folder: Path, *, epochs: int) -> None:
    """Train a small transformer from scratch and save it to `folder`."""
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=10,
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
    )
    model = ViTForImageClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        for batch in batches:
            train_step(model, optimizer, batch)
    model.save_pretrained(folder)


def main(*, epochs: int = 30, folder: str | Path | None = None, **options: Any) -> Grower:
    """Pretrain, save, load, train on and grow; `options` are further arguments of `Grower`."""
    if folder is None:
        with TemporaryDirectory() as temporary:
            return main(epochs=epochs, folder=temporary, **options)
    folder = Path(folder)
    torch.manual_seed(0)
    images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
    data = TensorDataset(images.float().reshape(-1, 1, 8, 8) / 16, labels)
    train, validation = random_split(data, [1397, 400])
    easy = Subset(train, [index for index in range(len(train)) if train[index][1] < 5])
    pretrain(DataLoader(easy, 32, shuffle=True), folder / "pretrained", epochs=max(epochs // 6, 1))

    model = ViTForImageClassification.from_pretrained(folder / "pretrained")
    judged = DataLoader(validation, 100)
    print(f"validation loss {loss_of(model, judged):.3f} of the checkpoint")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    grower = Grower(
        model,
        optimizer,
        loss=F.cross_entropy,
        forward=forward,
        train_step=train_step,
        boundaries=epochs,
        **options,
    )
    for _ in range(epochs):
        model.train()
        for batch in DataLoader(train, 32, shuffle=True):
            with grower.step(batch):
                train_step(model, optimizer, batch)
        report = grower.boundary(judged)
        loss = report.metrics["validation_loss"]
        print(f"epoch {report.boundary}: validation loss {loss:.3f}; {report.decision.reason}")
    grower.finish(judged)

    assert grower.executor is not None
    print(f"{grower.executor.host_parameters} parameters before growth")
    for seed in grower.executor.kept:
        what = f"{seed.candidate.blueprint} at {seed.site.name}"
        print(f"{seed.parameter_count} more for {what}, which was kept")
    save_grown(grower, folder / "grown.pt")
    fresh = ViTForImageClassification.from_pretrained(folder / "pretrained")
    load_grown(fresh, folder / "grown.pt")
    print(f"validation loss {loss_of(fresh, judged):.3f} of a fresh copy with what has grown")
    return grower


if __name__ == "__main__":
    main()
