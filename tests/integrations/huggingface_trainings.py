"""A small transformer and its trainings with the Trainer, with growth or without."""

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from esper_async.integrations.huggingface import GrowerCallback
from tests.tolaria.growth_tasks import QUICK

BLUEPRINTS = ["BP014", "BP020", "BP021"]
FOREVER = {**QUICK, "dwell_steps": 10_000}
"""Seeds stay in TRAINING."""


def make_model(*, dropout: float = 0.2) -> ViTForImageClassification:
    """Return a vision transformer for images (N, 1, 4, 4) in 3 classes, the same bits each time."""
    config = ViTConfig(
        image_size=4,
        patch_size=2,
        num_channels=1,
        num_labels=3,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return ViTForImageClassification(config)


def images(count: int, *, seed: int) -> list[dict[str, Any]]:
    """Return images whose class is their brightest quarter."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(count, 1, 4, 4, generator=generator)
    labels = pixels[:, 0, :2, :2].flatten(1)[:, :3].argmax(dim=1)
    return [
        {"pixel_values": image, "labels": int(label)}
        for image, label in zip(pixels, labels, strict=True)
    ]


def make_callback(certificates: Any, **changes: Any) -> GrowerCallback:
    """Return a callback that grows quickly."""
    settings: dict[str, Any] = {
        "seed": 3,
        "growth": QUICK,
        "blueprints": BLUEPRINTS,
        "sites": {"body": "vit.layers.0", "patches": "vit.embeddings"},
        "certificates": certificates,
        "progress": lambda done, total, what: None,
    }
    return GrowerCallback(**{**settings, **changes})


def make_trainer(
    folder: Path, *callbacks: Any, model: Any = None, evaluate_on: Any = None, **changes: Any
) -> Trainer:
    """Return a quiet trainer of 6 batches an epoch."""
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 6,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 16,
        "learning_rate": 1e-2,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return Trainer(
        model=model or make_model(),
        args=TrainingArguments(**{**settings, **changes}),
        train_dataset=images(96, seed=0),
        eval_dataset=evaluate_on or images(96, seed=1),
        callbacks=list(callbacks),
    )


def train(folder: Path, callback: GrowerCallback | None = None, **options: Any) -> Any:
    """Train a fresh model with one callback or none; return it."""
    trainer = make_trainer(folder, *([] if callback is None else [callback]), **options)
    trainer.train()
    return trainer.model
