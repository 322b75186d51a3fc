"""Steps and rewards leave the store as a Parquet table that says which formula computed them."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from esper_async.leyline import SeedLifecycleStage, SeedOperation
from esper_async.simic import ExperienceStore, Query
from esper_async.simic.export import VERSION_KEY, MissingExtraError, export_parquet, main
from esper_async.simic.reward import FORMULA_VERSION
from tests.simic.experiences import decision, report


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    store = ExperienceStore(tmp_path / "simic" / "experience.sqlite", now=lambda: 1e6)
    planted, told = decision("a", 1), report("a", 1, parameter_ratio=0.5)
    planted.command.seed.operation = SeedOperation.SEED_OPERATION_GERMINATE
    told.stage = SeedLifecycleStage.SEED_LIFECYCLE_STAGE_FOSSILIZED
    for message in (decision("a", 0), planted, told, decision("b", 0, policy="bandit")):
        store.take(message, message.SerializeToString().hex())
    store.close()
    return tmp_path


def test_a_row_a_step_with_its_reward_and_what_was_not_measured_is_null(state_dir: Path):
    path = state_dir / "all.parquet"
    assert main([str(state_dir), str(path)]) == 0
    table = pyarrow.parquet.read_table(path)
    assert table.schema.metadata[VERSION_KEY.encode()] == str(FORMULA_VERSION).encode()
    quiet, planted, other = table.to_pylist()
    assert (quiet["operation"], quiet["reward"], quiet["benefit_mean"]) == (None, 0.0, None)
    assert (planted["operation"], planted["blueprint"], planted["kept"]) == (
        "GERMINATE",
        "BP009",
        True,
    )
    assert planted["reward"] == pytest.approx(0.8 - 0.05)
    assert planted["reward_benefit"] == pytest.approx(0.8)
    assert planted["reward_version"] == FORMULA_VERSION
    assert other["policy"] == "bandit"
    assert list(state_dir.glob(".*")) == []


def test_pages_leave_nothing_out(state_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("esper_async.simic.export._PAGE", 1)
    store = ExperienceStore(state_dir / "simic" / "experience.sqlite", now=lambda: 1e6)
    assert export_parquet(store, state_dir / "a.parquet", Query(run="a")) == 2
    assert pyarrow.parquet.read_table(state_dir / "a.parquet").num_rows == 2
    store.close()


def test_nothing_to_export_is_an_empty_table(state_dir: Path):
    path = state_dir / "none.parquet"
    assert main([str(state_dir), str(path), "--run", "nobody"]) == 0
    assert pyarrow.parquet.read_table(path).num_rows == 0


def test_without_pyarrow_it_says_which_extra_to_install(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    store = ExperienceStore(state_dir / "simic" / "experience.sqlite", now=lambda: 1e6)
    with pytest.raises(MissingExtraError, match=r"esper-async\[parquet\]"):
        export_parquet(store, state_dir / "a.parquet")
    store.close()
    assert main([str(state_dir), str(state_dir / "a.parquet")]) == 2
    assert "esper-async[parquet]" in capsys.readouterr().err


def test_a_state_directory_without_experience_is_a_wrong_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([str(tmp_path), str(tmp_path / "a.parquet")]) == 2
    assert "no experience" in capsys.readouterr().err


def test_the_supervisor_imports_no_pyarrow():
    code = "import sys, esper_async.supervisor.assembly; sys.exit('pyarrow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
