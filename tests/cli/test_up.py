"""`up` on the true path: every subsystem comes up, is small, and drains."""

import json
import os
import signal
import socket
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from esper_async.runtime.journal import Journal
from esper_async.tolaria.run_file import parse_run
from esper_async.tolaria.runs import RunStore
from tests.cli.conftest import Cli, Running, Up


def memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def test_a_warm_start_is_ready_within_its_limit_small_and_without_torch(up: Up) -> None:
    first = up("--no-run")  # makes the state directory, and warms the disk's cache
    first.wait_ready()
    assert first.stop() == 0
    second = up("--no-run")
    seconds = second.wait_ready()
    pid = second.process.pid
    assert memory_mb(pid) <= 120
    assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()
    assert second.stop() == 0
    assert seconds <= 4.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_exits_0(up: Up, number: int) -> None:
    running = up("--no-run")
    running.wait_ready()
    began = time.monotonic()
    assert running.stop(number) == 0
    assert time.monotonic() - began <= 10
    assert running.said().splitlines()[-1] == "esper has stopped; no run was under way"
    assert not (running.state_dir / "supervisor.json").exists()


def test_status_names_every_subsystem(up: Up, cli: Cli) -> None:
    running = up("--no-run")
    running.wait_ready()
    where = ("--state-dir", str(running.state_dir))
    document = cli("status", "--json", *where).document
    ten = {"oona", "karn", "urza", "tezzeret", "tolaria", "kasmina", "tamiyo", "simic", "nissa"}
    assert set(document["services"]) == {*ten, "http"}
    assert document["status"] == "ready"
    assert all(facts["state"] == "ready" for facts in document["services"].values())
    text = cli("status", *where).out
    assert "ready" in text
    assert "tezzeret" in text
    assert len(cli("blueprints", "--json", *where).document) == 50
    for command in ("runs", "kernels", "policies", "events", "dead-letters"):
        assert cli(command, *where).code == 0
    wrong = cli("runs", *where, "show", "r-404")
    assert (wrong.code, "r-404" in wrong.err) == (2, True)
    stopped = cli("down", *where)
    assert (stopped.code, running.process.wait(20)) == (0, 0)


def test_a_resumed_run_is_first_shown_where_it_stands(up: Up, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "state" / "runs")
    run = store.create(parse_run({"run": {"name": "mine", "task": "any:make", "epochs": 60}}))
    run.state = "paused"
    store.save(run)
    with closing(Journal.open(run.folder / "journal.jsonl")) as journal:
        place = {"run": run.id, "time": 1e9, "boundary": 29, "epoch": 29, "step": 290}
        journal.append({"kind": "paused", **place})
    running = up("--no-run")
    wait_for_words(running, "epoch")
    assert running.stop() == 0
    first, last = (line for line in running.said().splitlines() if "epoch" in line)
    assert "paused  epoch 29/60" in first
    assert "mine waits at epoch 29 of 60 (paused)" in last


@pytest.mark.full
def test_a_second_supervisor_on_the_same_state_is_refused(up: Up, cli: Cli) -> None:
    running = up("--no-run")
    running.wait_ready()
    answer = cli("up", "--no-run", "--port", "0", "--state-dir", str(running.state_dir))
    assert answer.code == 1
    assert f"process {running.process.pid}" in answer.err
    assert "down" in answer.err
    assert running.stop() == 0


@pytest.mark.full
def test_a_supervisor_killed_outright_leaves_nothing_and_starts_again(up: Up) -> None:
    first = up("--no-run")
    first.wait_ready()
    first.process.kill()
    first.process.wait()
    assert up("--no-run").wait_ready() < 30


def test_a_service_manager_is_told_when_everything_is_up(up: Up, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        notifications.bind(str(tmp_path / "notify"))
        notifications.settimeout(30)
        running = up("--no-run", NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="1000000")
        told: set[str] = set()
        while not told >= {"READY=1", "WATCHDOG=1"}:
            told.add(notifications.recv(100).decode())
        assert running.stop() == 0


@pytest.mark.full
@pytest.mark.timeout(700)
def test_a_run_trains_resumes_after_a_kill_and_ends_with_its_table(up: Up, tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text(
        "[run]\ntask = 'esper_async.tasks.digits:make_task'\nepochs = 40\nbaselines = true\n"
    )
    running = up("--run", "short.toml", "--exit-when-done")
    running.wait_ready()
    run_id = wait_for_epoch(running, 1)
    os.kill(train_pid(running.process.pid), signal.SIGKILL)
    assert running.process.wait(600) == 0
    state = json.loads((running.state_dir / "runs" / run_id / "state.json").read_text())
    assert (state["state"], state["resumes"]) == ("completed", 1)
    said = running.said()
    assert f"{run_id}: completed" in said
    assert "the same host, not growing" in said
    assert "One run is not evidence" in said


def test_a_run_that_was_asked_for_and_failed_is_named_and_is_no_success(
    up: Up, tmp_path: Path
) -> None:
    (tmp_path / "bad.toml").write_text("[run]\ntask = 'nowhere.at.all:make_task'\nepochs = 1\n")
    running = up("--run", "bad.toml")
    running.wait_ready()
    wait_for_words(running, "failed")
    assert running.stop(signal.SIGINT) == 1
    last = (tmp_path / "stderr").read_text().splitlines()[-1]
    assert "bad" in last
    assert "no module 'nowhere'" in last


def test_a_run_that_failed_before_does_not_trouble_the_next_start(up: Up, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[run]\ntask = 'nowhere.at.all:make_task'\nepochs = 1\n")
    first = up("--run", "bad.toml", "--exit-when-done")
    assert first.process.wait(60) == 1
    second = up("--no-run")
    second.wait_ready()
    assert second.stop() == 0


def wait_for_epoch(running: Running, epoch: int) -> str:
    """Poll gently: training gives way to everything else on this machine."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        with urllib.request.urlopen(running.url("/api/runs"), timeout=5) as answer:
            runs = json.load(answer)
        if runs and (runs[0]["epoch"] or 0) >= epoch:
            return str(runs[0]["id"])
        time.sleep(0.1)
    raise AssertionError("the run never began")


def wait_for_words(running: Running, words: str) -> None:
    """Poll what is said: a line comes every second at most."""
    deadline = time.monotonic() + 30
    while words not in running.said():
        assert time.monotonic() < deadline, running.said()
        time.sleep(0.1)


def train_pid(supervisor: int) -> int:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == supervisor and any(word.startswith(b"train-") for word in command):
            return int(entry.name)
    raise AssertionError("there is no training process")
