"""The guide's programs for other people's trainers run as they stand, with fewer epochs."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from esper_async import load_grown, save_grown
from tests.cli.conftest import ROOT
from tests.integrations import huggingface_trainings, lightning_fits
from tests.integrations.conftest import one_thread  # noqa: F401 - used by every test
from tests.tolaria.growth_tasks import QUICK

GUIDE = (ROOT / "docs" / "growing-your-own-model.md").read_text()
pytestmark = [  # advice for larger runs than these, which depends on the machine
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:.*tensorboardX"),
]


def program(words: str) -> str:
    """Return the one block that holds `words`, with growth at a pace for tests."""
    (found,) = (b for b in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if words in b)
    assert found.count("seed=7)") == 1
    quick = f"growth={QUICK!r}, blueprints=['BP014', 'BP021'], sites=sites)"
    return str(found.replace("seed=7)", f"seed=7, {quick}").replace("=30,", "=12,"))


def test_lightning_grows_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train_loader, validation_loader = lightning_fits.data()
    module = lightning_fits.make_module(host=lightning_fits.plain_host())
    given: dict[str, Any] = {
        "nn": nn,
        "save_grown": save_grown,
        "module": module,
        "train_loader": train_loader,
        "validation_loader": validation_loader,
        "sites": {"trunk": "net.3"},
    }
    exec(program("integrations.lightning"), given)
    assert given["growth"].grower.executor.kept
    fresh = load_grown(
        lightning_fits.make_module(host=lightning_fits.plain_host()), tmp_path / "grown.pt"
    )
    assert fresh.state_dict().keys() == module.state_dict().keys()


def test_the_trainer_grows_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = huggingface_trainings.make_model()
    trainer = huggingface_trainings.make_trainer(tmp_path, num_train_epochs=12)
    given: dict[str, Any] = {
        "save_grown": save_grown,
        "model": model,
        "arguments": trainer.args,
        "train_set": trainer.train_dataset,
        "validation_set": trainer.eval_dataset,
        "sites": {"layer": "vit.layers.0"},
    }
    exec(program("integrations.huggingface"), given)
    assert given["growth"].grower.executor.kept
    fresh = load_grown(huggingface_trainings.make_model(), tmp_path / "grown.pt")
    torch.testing.assert_close(dict(fresh.state_dict()), dict(model.state_dict()))
