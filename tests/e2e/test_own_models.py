"""A user's own model: `check` lists where it can grow, `up` trains and grows it."""

import json
from pathlib import Path

import pytest

from esper_async import load_grown
from esper_async.tolaria.task_source import load_task
from tests.cli.conftest import Cli
from tests.e2e.conftest import (
    EPOCHS,
    MODELS,
    as_toml,
    only_run,
    records,
    rejected,
    run_of,
    stored_reports,
)

pytestmark = pytest.mark.timeout(600)
SITES = {
    "table_mlp": {"body.1": "feature", "body.4": "feature"},
    "small_conv": {"norm": "spatial", "block.1": "spatial"},
    "small_transformer": {
        "embed": "sequence",
        "encoder.layers.0.linear1": "sequence",
        "encoder": "sequence",
    },
    "tied_gru": {
        "lift": "sequence",
        "read": "sequence",
        "recurrent": "sequence",
        "write": "feature",
    },
}
HAS_ACCURACY = {"table_mlp"}
SHORT = {"table_mlp"}
MODEL_NAMES = [
    pytest.param(name, marks=() if name in SHORT else pytest.mark.full) for name in SITES
]


def test_the_models_mention_esper_only_in_the_task() -> None:
    for name in SITES:
        lines = (MODELS / f"{name}.py").read_text().splitlines()
        named = [line for line in lines if "esper" in line.lower()]
        assert named == ["from esper_async import Task"]


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_check_lists_the_sites_and_promises_a_bitwise_resume(
    name: str, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text(as_toml(run_of(name)))
    answer = cli("check", "run.toml", "--json", timeout_s=120)
    assert answer.code == 0, answer.err
    document = answer.document
    assert document["problems"] == []
    assert {site["site"]: site["kind"] for site in document["sites"]} == SITES[name]
    assert all(len(site["blueprints"]) >= 10 for site in document["sites"])
    assert document["resumable"] == "bitwise"


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_up_trains_grows_and_reports(name: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(as_toml(run_of(name)))
    answer = cli(
        "up", "--run", "run.toml", "--state-dir", "state", "--port", "0", "--exit-when-done",
        timeout_s=540, ESPER_TOLARIA__NICE="0",
    )  # fmt: skip
    assert answer.code == 0, answer.err[-3_000:]
    folder = only_run(tmp_path / "state")
    result = json.loads((folder / "result.json").read_text())
    assert result["state"] == "completed"

    boundaries = records(folder, "boundary")
    assert [record["boundary"] for record in boundaries] == list(range(1, EPOCHS + 1))
    metrics = boundaries[-1]["metrics"]
    assert ("validation_accuracy" in metrics) == (name in HAS_ACCURACY)
    assert metrics["validation_loss"] < boundaries[0]["metrics"]["validation_loss"]

    transitions = records(folder, "transition")
    stages = {record["to_stage"] for record in transitions}
    assert stages >= {"GERMINATED", "TRAINING", "BLENDING"}, stages
    judged = [record for record in transitions if record["to_stage"] == "BLENDING"]
    assert all(record["gate"]["numbers"] for record in judged)
    assert result["compute"]["shadow_macs"] > 0
    assert result["compute"]["twin_macs"] > 0

    task = load_task(run_of(name)["run"]["task"], {}, seed=0)
    grown = load_grown(task.model, folder / "model.pt")
    assert sum(parameter.numel() for parameter in grown.parameters()) == result["parameters"]

    reports = [record["report_id"] for record in records(folder, "field_report")]
    assert reports
    assert sorted(stored_reports(tmp_path / "state")) == sorted(reports)
    assert rejected(tmp_path / "state") == 0


@pytest.mark.full
def test_a_loss_that_is_not_finite_fails_the_run_and_says_where(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(
        "import torch\nfrom torch import nn\nfrom esper_async import Task\n"
        "def make_task():\n"
        "    batches = [(torch.full((4, 3), float('nan')), torch.tensor([0, 1, 0, 1]))]\n"
        "    return Task(model=nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)),\n"
        "                train_loader=batches, validation_loader=batches,\n"
        "                loss=nn.functional.cross_entropy)\n"
    )
    _assert_fails(cli, tmp_path, "loss", "nan")


@pytest.mark.full
def test_a_model_with_no_place_to_grow_fails_the_run_and_says_how_to_name_one(
    cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "task.py").write_text(
        "import torch\nfrom torch import nn\nfrom esper_async import Task\n"
        "def make_task():\n"
        "    batches = [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))]\n"
        "    return Task(model=nn.Linear(3, 2), train_loader=batches, validation_loader=batches,\n"
        "                loss=nn.functional.cross_entropy)\n"
    )
    _assert_fails(cli, tmp_path, "no site to grow", "submodule")


def _assert_fails(cli: Cli, folder: Path, *words: str) -> None:
    (folder / "run.toml").write_text("[run]\ntask = 'task.py:make_task'\nepochs = 2\n")
    answer = cli(
        "up", "--run", "run.toml", "--state-dir", "state", "--port", "0", "--exit-when-done",
        timeout_s=280, ESPER_TOLARIA__NICE="0",
    )  # fmt: skip
    assert answer.code == 1, answer.err
    assert "failed" in answer.out
    for word in words:
        assert word in answer.out, answer.out
    assert "Traceback" not in answer.out + answer.err
