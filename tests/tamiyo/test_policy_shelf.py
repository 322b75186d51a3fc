"""Versions of the policy: verified, staged, asked in the shadow, activated, rolled back."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_async.tamiyo.errors import PolicyFileError
from esper_async.tamiyo.network import PolicyNetwork
from esper_async.tamiyo.network.policy_file import load_policy, save_policy
from esper_async.tamiyo.policy_header import read_verified
from esper_async.tamiyo.policy_shelf import (
    SHIPPED_VERSION,
    PolicyShelf,
    PolicyUpdateRefusedError,
)
from esper_async.tamiyo.shadow_tally import LEAST_DECISIONS, ShadowTally


def policy_file(folder: Path, name: str) -> Path:
    torch.manual_seed(sum(name.encode()))
    path = folder / f"{name}.policy"
    save_policy(PolicyNetwork(), path, name=name, lineage={})
    return path


def tally(**changes: float) -> ShadowTally:
    found = ShadowTally()
    told = {"latency_ms": 2.0, "legal": True, "agreed": True, "risk": 0.1, "active_risk": 0.1}
    for _ in range(LEAST_DECISIONS):
        found.add(**{**told, **changes})  # type: ignore[arg-type]
    return found


@pytest.fixture
def shelf(tmp_path: Path) -> PolicyShelf:
    return PolicyShelf(tmp_path / "shelf")


def ready(shelf: PolicyShelf, tmp_path: Path, name: str) -> str:
    version = shelf.stage(policy_file(tmp_path, name), validation_id="v1").version
    assert shelf.judge(version, tally())
    return version


def test_a_version_takes_every_step_before_it_decides(shelf: PolicyShelf, tmp_path: Path) -> None:
    assert shelf.active == SHIPPED_VERSION
    staged = shelf.stage(policy_file(tmp_path, "one"), validation_id="v1")
    assert shelf.next_in_shadow() == staged
    with pytest.raises(PolicyUpdateRefusedError, match="is staged"):
        shelf.activate(staged.version)
    assert shelf.judge(staged.version, tally())
    shelf.activate(staged.version)
    assert shelf.active == staged.version
    path = shelf.path(staged.version)
    assert path is not None
    assert load_policy(path)[1].version == staged.version
    assert [event.what for event in shelf.history] == ["staged", "ready", "activated"]


def test_what_is_on_the_shelf_survives_a_restart(shelf: PolicyShelf, tmp_path: Path) -> None:
    version = ready(shelf, tmp_path, "one")
    shelf.activate(version)
    again = PolicyShelf(tmp_path / "shelf")
    assert again.active == version
    assert again.history == shelf.history
    assert again.versions == shelf.versions


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latency_ms": 40.0}, "40.0 ms"),
        ({"legal": False}, "not legal"),
        ({"risk": 0.5}, "above the active"),
    ],
)
def test_one_that_is_slow_illegal_or_risky_never_takes_over(
    shelf: PolicyShelf, tmp_path: Path, changes: dict[str, float], words: str
) -> None:
    version = shelf.stage(policy_file(tmp_path, "one"), validation_id="v1").version
    assert not shelf.judge(version, tally(**changes))
    assert words in shelf.history[-1].reason
    with pytest.raises(PolicyUpdateRefusedError, match="rejected"):
        shelf.activate(version)


def test_one_that_raised_or_was_asked_too_seldom_is_rejected() -> None:
    raised = tally()
    raised.failed()
    assert any("raised" in fault for fault in raised.faults())
    assert any("are needed" in fault for fault in ShadowTally().faults())
    assert tally().faults() == []


def test_a_file_that_is_no_good_or_was_never_validated_is_refused_on_record(
    shelf: PolicyShelf, tmp_path: Path
) -> None:
    corrupt = policy_file(tmp_path, "corrupt")
    corrupt.write_bytes(corrupt.read_bytes()[:-10])
    with pytest.raises(PolicyUpdateRefusedError, match="checksum"):
        shelf.stage(corrupt, validation_id="v1")
    with pytest.raises(PolicyUpdateRefusedError, match="validation record"):
        shelf.stage(policy_file(tmp_path, "one"), validation_id="")
    assert [event.what for event in shelf.history] == ["refused", "refused"]
    assert shelf.versions == []


def test_a_rollback_puts_the_one_before_back(shelf: PolicyShelf, tmp_path: Path) -> None:
    first, second = ready(shelf, tmp_path, "one"), ready(shelf, tmp_path, "two")
    shelf.activate(first)
    shelf.activate(second)
    assert shelf.roll_back("latency") == first
    assert shelf.active == first
    assert shelf.roll_back("legality") == SHIPPED_VERSION
    assert shelf.roll_back("again") == SHIPPED_VERSION
    with pytest.raises(PolicyUpdateRefusedError, match="rejected"):
        shelf.activate(second)


def test_a_rollback_passes_over_one_whose_file_is_no_good_any_more(
    shelf: PolicyShelf, tmp_path: Path
) -> None:
    first, second = ready(shelf, tmp_path, "one"), ready(shelf, tmp_path, "two")
    shelf.activate(first)
    shelf.activate(second)
    path = shelf.path(first)
    assert path is not None
    path.write_bytes(b"gone")
    assert shelf.roll_back("risk") == SHIPPED_VERSION
    assert "passed over" in [event.what for event in shelf.history]


def test_a_retired_version_can_be_activated_again(shelf: PolicyShelf, tmp_path: Path) -> None:
    version = ready(shelf, tmp_path, "one")
    shelf.activate(version)
    shelf.activate(SHIPPED_VERSION)
    shelf.activate(version)
    assert shelf.active == version
    with pytest.raises(PolicyUpdateRefusedError, match="no policy version"):
        shelf.activate("nobody")


def test_the_shelf_needs_no_torch() -> None:
    code = "import sys, esper_async.tamiyo.policy_shelf; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_bytes_that_are_no_policy_are_refused_in_words(tmp_path: Path, data: st.DataObject) -> None:
    kept = tmp_path / "whole.policy"
    whole = (kept if kept.exists() else policy_file(tmp_path, "whole")).read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    noise = data.draw(st.binary(max_size=50) | st.just(b"[" * 5_000))
    odd = data.draw(st.sampled_from([noise + whole[cut:], whole[:cut] + noise]))
    path = tmp_path / "odd.policy"
    path.write_bytes(odd)
    try:
        header, _ = read_verified(path)
    except PolicyFileError as error:
        assert str(path) in str(error)
    else:
        assert header.version == read_verified(kept)[0].version
