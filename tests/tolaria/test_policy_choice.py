"""Which version of the graph policy decides in a run: the active one, kept to the run's end."""

from pathlib import Path

import pytest
import torch

from esper_async.tamiyo.errors import PolicyFileError
from esper_async.tamiyo.network import PolicyNetwork
from esper_async.tamiyo.network.policy_file import save_policy
from esper_async.tamiyo.policy_shelf import PolicyShelf
from esper_async.tamiyo.shadow_tally import LEAST_DECISIONS, ShadowTally
from esper_async.tolaria import policy_choice
from esper_async.tolaria.policy_choice import choose_policy


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "shipped.policy"
    save_policy(PolicyNetwork(), path, name="shipped", lineage={})
    monkeypatch.setattr(policy_choice, "SHIPPED", path)
    return path


def activated(tmp_path: Path, name: str) -> str:
    torch.manual_seed(sum(name.encode()))
    path = tmp_path / f"{name}.policy"
    save_policy(PolicyNetwork(), path, name=name, lineage={})
    shelf = PolicyShelf(tmp_path / "shelf")
    version = shelf.stage(path, validation_id="v").version
    tally = ShadowTally()
    for _ in range(LEAST_DECISIONS):
        tally.add(latency_ms=1.0, legal=True, agreed=True, risk=0.0, active_risk=0.0)
    shelf.judge(version, tally)
    shelf.activate(version)
    return version


def chosen(tmp_path: Path, run: str = "run") -> str:
    (tmp_path / run).mkdir(exist_ok=True)
    policy = choose_policy("gnn", 0, shelf_dir=tmp_path / "shelf", run_dir=tmp_path / run)
    assert policy is not None
    return policy.version


def test_runs_of_another_policy_have_none(tmp_path: Path) -> None:
    folders = {"shelf_dir": tmp_path / "shelf", "run_dir": tmp_path}
    assert choose_policy("heuristic", 0, **folders) is None


def test_a_run_takes_what_is_active_and_keeps_it_when_it_is_resumed(tmp_path: Path) -> None:
    assert chosen(tmp_path).startswith("shipped+")
    version = activated(tmp_path, "one")
    assert chosen(tmp_path).startswith("shipped+")
    assert chosen(tmp_path, "later") == version


def test_one_whose_file_is_no_good_gives_way_to_the_one_before(tmp_path: Path) -> None:
    first, second = activated(tmp_path, "one"), activated(tmp_path, "two")
    path = PolicyShelf(tmp_path / "shelf").path(second)
    assert path is not None
    path.write_bytes(b"cut")
    assert chosen(tmp_path) == first
    shelf = PolicyShelf(tmp_path / "shelf")
    assert shelf.active == first
    assert "checksum" in shelf.history[-1].reason or "policy" in shelf.history[-1].reason


def test_without_a_sound_file_of_the_programs_own_there_is_none(
    tmp_path: Path, shipped: Path
) -> None:
    shipped.write_bytes(b"")
    with pytest.raises(PolicyFileError, match="shipped"):
        chosen(tmp_path)
