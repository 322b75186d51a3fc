"""Growth in a training loop of your own, from scratch: `python examples/plain_loop.py`.

A network of one narrow layer learns 1 797 real handwritten digits, which come with scikit-learn.
"""

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset, random_split

from esper_async import Grower


def train_step(model: nn.Module, optimizer: Optimizer, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Take one optimizer step; return the loss ()."""
    images, labels = batch
    optimizer.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.detach()


def main(*, epochs: int = 30, **options: Any) -> Grower:
    """Train and grow; `options` are further arguments of `Grower`."""
    torch.manual_seed(0)
    images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
    data = TensorDataset(images.float() / 16, labels)  # (N, 64) and (N,)
    train, validation = (
        DataLoader(part, 32, shuffle=True) for part in random_split(data, [1397, 400])
    )
    model = nn.Sequential(nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    # With a train_step a no-growth twin is trained beside each seed on trial, and judged against.
    grower = Grower(
        model, optimizer, loss=F.cross_entropy, train_step=train_step, boundaries=epochs, **options
    )
    for _ in range(epochs):
        for batch in train:
            with grower.step(batch):
                train_step(model, optimizer, batch)
        report = grower.boundary(validation)
        loss = report.metrics["validation_loss"]
        print(f"epoch {report.boundary}: validation loss {loss:.3f}; {report.decision.reason}")
    grower.finish(validation)

    assert grower.executor is not None
    print(f"{grower.executor.host_parameters} parameters before growth")
    for seed in grower.executor.kept:
        what = f"{seed.candidate.blueprint} at {seed.site.name}"
        print(f"{seed.parameter_count} more for {what}, which was kept")
    print(f"validation loss {grower.score(validation).loss:.3f} of what has grown")
    return grower


if __name__ == "__main__":
    main()
