"""The command that teaches the graph policy: what it writes, and that a kill changes nothing."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from esper_async.kasmina.stage import Stage
from esper_async.simic import ExperienceStore
from esper_async.simic.learning import TRAINING
from esper_async.simic.teach import main
from esper_async.tamiyo.evidence import unpack
from esper_async.tamiyo.network.policy_file import load_policy
from esper_async.tamiyo.policies.graph import SHIPPED, GraphPolicy
from tests.simic.experiences import decision
from tests.tamiyo.graph_views import seed, view

RUNS, STEPS = 8, 6


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One in which the shipped graph policy has decided in eight runs, whose results are known."""
    folder = tmp_path_factory.mktemp("taught")
    store = ExperienceStore(folder / "simic" / "experience.sqlite", now=lambda: 1e6)
    network, header = load_policy(SHIPPED)
    for run in range(RUNS):
        policy = GraphPolicy(run, network, version=header.version)
        for step in range(STEPS):
            seeds = [seed("s1", Stage.TRAINING)] if step % 2 else []
            evidence = policy.decide(view(boundary=step + 5, seeds=seeds)).evidence
            assert evidence is not None
            told, message = unpack(evidence), decision(f"run{run}", step)
            message.graph.CopyFrom(told.graph)
            del message.heads[:]
            message.heads.extend(told.heads)
            message.policy = "gnn"
            store.take(message, f"{run}/{step}")
        store.tell_result(f"run{run}", terminal_gain=0.05 * (run % 3))
    store.close()
    return folder


@pytest.mark.parametrize("method", ["ppo", "impala"])
def test_a_policy_is_written_that_can_be_used_and_says_where_it_is_from(
    state_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, method: str,
):  # fmt: skip
    monkeypatch.setattr(os, "nice", lambda _: 0)
    output = tmp_path / "new.policy"
    asked = [str(state_dir), str(output), "--method", method, "--passes", "1"]
    assert main(asked) == 0
    told = json.loads((state_dir / "simic" / "learning.json").read_text())
    assert told["method"] == method
    assert set(told["figures"]) == {name.rpartition(".")[2] for name in TRAINING}
    assert all(map(math.isfinite, told["figures"].values()))
    said = capsys.readouterr().out
    assert f"from {RUNS * STEPS} steps of {RUNS} runs" in said
    network, header = load_policy(output)
    _, parent = load_policy(SHIPPED)
    assert header.version.startswith(method)
    assert header.lineage["parent"] == parent.version
    assert header.lineage["runs"] == [f"run{run}" for run in range(RUNS)]
    assert GraphPolicy(0, network, version=header.version).decide(view()).probability
    assert list(tmp_path.iterdir()) == [output]


def test_a_learner_that_is_killed_goes_on_and_comes_to_the_same_weights(
    state_dir: Path, tmp_path: Path
):
    straight, killed = tmp_path / "straight.policy", tmp_path / "killed.policy"
    assert teach(state_dir, straight).wait(120) == 0
    kept = killed.with_name("killed.policy.learning")
    process = teach(state_dir, killed)
    while not kept.exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not killed.exists()
    passed = torch.load(kept, weights_only=True)["passed"]
    assert passed >= 1
    assert teach(state_dir, killed).wait(120) == 0
    assert killed.read_bytes() == straight.read_bytes()
    assert not kept.exists()


def teach(state_dir: Path, output: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "esper_async.simic.teach", str(state_dir), str(output),
         "--passes", "6", "--rank", "4"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def test_what_was_kept_of_another_lesson_is_not_gone_on_from(
    state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "nice", lambda _: 0)
    output, other = tmp_path / "new.policy", tmp_path / "other.policy"
    asked = [str(state_dir), str(output), "--passes", "1"]
    assert main(asked) == 0
    for content in (b"", b"no checkpoint"):
        output.with_name("other.policy.learning").write_bytes(content)
        assert main([str(state_dir), str(other), "--passes", "1"]) == 0
        assert other.read_bytes() == output.read_bytes()


def test_where_there_is_nothing_to_learn_from_it_says_so_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "nice", lambda _: 0)
    output = tmp_path / "new.policy"
    assert main([str(tmp_path), str(output)]) == 2
    store = ExperienceStore(tmp_path / "simic" / "experience.sqlite", now=lambda: 1e6)
    store.take(decision("a", 1), "1")
    store.close()
    assert main([str(tmp_path), str(output)]) == 1
    assert "decided by" in capsys.readouterr().err
    assert main([str(tmp_path), str(output), "--parent", str(tmp_path / "none.policy")]) == 1
    assert not output.exists()
