"""Growth under the Trainer of transformers: `python examples/huggingface_trainer.py`.

A small vision transformer, with random weights and no download, learns handwritten digits. All that
is new is a callback.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.utils.data import Dataset, random_split
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

from esper_async.integrations.huggingface import GrowerCallback


class Digits(Dataset[dict[str, Any]]):
    """1 797 images (1, 8, 8) and their labels, as the model's arguments."""

    def __init__(self) -> None:
        images, labels = load_digits(return_X_y=True)
        self.images = torch.tensor(images).float().reshape(-1, 1, 8, 8) / 16
        self.labels = labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def make_model() -> ViTForImageClassification:
    """Return a transformer of one narrow layer."""
    return ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            num_labels=10,
            hidden_size=12,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=12,
        )
    )


def logits_and_labels(model: torch.nn.Module, batch: dict[str, Any]) -> tuple[Any, Any]:
    """Return logits (N, 10) and labels (N,): with them a seed is judged image by image."""
    return model(**batch).logits, batch["labels"]


def main(*, epochs: int = 30, folder: str | Path | None = None, **options: Any) -> GrowerCallback:
    """Train and grow, with checkpoints in `folder`; `options` are further arguments of `Grower`."""
    if folder is None:
        with TemporaryDirectory() as temporary:
            return main(epochs=epochs, folder=temporary, **options)
    set_seed(0)
    train, validation = random_split(Digits(), [1397, 400])
    growth = GrowerCallback(loss=F.cross_entropy, forward=logits_and_labels, **options)
    trainer = Trainer(
        model=make_model(),
        args=TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=epochs,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=100,
            learning_rate=5e-3,
            eval_strategy="epoch",  # growth decides where the trainer evaluates
            save_strategy="epoch",
            save_total_limit=2,
            logging_strategy="epoch",
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=train,
        eval_dataset=validation,
        callbacks=[growth],
    )
    trainer.train()

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
    print(f"validation loss {trainer.evaluate()['eval_loss']:.3f} of what has grown")
    return growth


if __name__ == "__main__":
    main()
