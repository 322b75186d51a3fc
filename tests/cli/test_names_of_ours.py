"""A user's file may have any name: it stands in for no module of the standard library or ours."""

from pathlib import Path

import pytest

from tests.cli.conftest import Cli

SHADOWS = ("queue.py", "logging.py", "statistics.py", "redis.py")
TASK = """
import torch
from torch import nn
from esper_async import Task

def make_task():
    batches = [(torch.randn(8, 4), torch.randn(8, 1)) for _ in range(4)]
    return Task(
        model=nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)),
        loss=nn.functional.mse_loss, train_loader=batches, validation_loader=batches,
    )
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The current directory of `cli`: a package of the user's beside names that are taken."""
    for name in SHADOWS:
        (tmp_path / name).write_text(f"raise ImportError('this is the {name} of the user')\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "training.py").write_text(TASK)
    (tmp_path / "run.toml").write_text(
        "[run]\ntask = 'mine.training:make_task'\nepochs = 2\n[growth]\npolicy = 'static'\n"
    )
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_check_imports_a_module_of_the_current_directory_and_nothing_else_from_it(
    cli: Cli,
) -> None:
    answer = cli("check", "run.toml")
    assert answer.code == 0, answer.out + answer.err
    assert answer.out.splitlines()[-1] == "it can be trained"


@pytest.mark.usefixtures("folder")
def test_a_run_imports_a_module_of_the_current_directory_and_nothing_else_from_it(
    cli: Cli,
) -> None:
    answer = cli("up", "--run", "run.toml", "--exit-when-done", "--port", "0", timeout_s=120)
    assert answer.code == 0, answer.out + answer.err
