"""Every command and every program in the README is run; long ones with a shortened run."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, Cli, Up, cli, environment, up  # noqa: F401 - fixtures
from tests.cli.test_up import wait_for_epoch

pytestmark = pytest.mark.timeout(600)
README = (ROOT / "README.md").read_text()
PRELUDE = """
import torch
from torch import nn
from my_net import make_task
task = make_task()
model, train_loader, validation_loader = task.model, task.train_loader, task.validation_loader
loss = nn.functional.cross_entropy
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = "".join(blocks("console")).splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.strip()]


def block_with(language: str, words: str) -> str:
    (found,) = (block for block in blocks(language) if words in block)
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The reader's folder: the two files that the README shows."""
    (tmp_path / "my_net.py").write_text(block_with("python", "# my_net.py"))
    (tmp_path / "my-run.toml").write_text(block_with("toml", "# my-run.toml"))
    return tmp_path


def run_python(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(PYTHONPATH=str(folder)),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return done.stdout


def test_no_command_of_the_readme_is_left_out_below() -> None:
    assert commands() == [
        "bin/esper-supervisor up",
        "bin/esper-test",
        "bin/esper-supervisor check my-run.toml",
        "bin/esper-supervisor up --run my-run.toml",
        "bin/esper-supervisor status",
        "bin/esper-supervisor runs",
        "bin/esper-supervisor events",
        "bin/esper-supervisor down",
    ]


@pytest.mark.parametrize("name", ["esper-supervisor", "esper-test"])
def test_the_two_commands_are_programs_that_a_shell_can_read(name: str) -> None:
    program = ROOT / "bin" / name
    assert os.access(program, os.X_OK)
    subprocess.run(["bash", "-n", str(program)], check=True)


def test_the_test_command_runs_tests(tmp_path: Path) -> None:
    """With an environment that is set up already: the one that runs this."""
    venv = tmp_path / "venv"
    venv.mkdir()
    for part in ("bin", "lib", "pyvenv.cfg"):
        (venv / part).symlink_to(Path(sys.prefix) / part)
    script = '. "$1/bin/environment.sh"; wanted_hash "$1/requirements/test.txt"; echo $HASH'
    stamp = subprocess.run(
        ["bash", "-c", script, "-", ROOT], capture_output=True, text=True, check=True
    )
    (venv / ".esper-test").write_text(stamp.stdout)
    done = subprocess.run(
        [ROOT / "bin" / "esper-test", "tests/docs/test_docs.py", "-q", "-p", "no:cacheprovider"],
        env=environment(ESPER_VENV=str(venv), CI=""),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert " passed" in done.stdout, done.stdout[-2_000:] + done.stderr[-2_000:]
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    assert "all passed" in done.stderr


def test_up_trains_the_digits(up: Up) -> None:  # noqa: F811
    running = up(ESPER_TOLARIA__NICE="0")
    running.wait_ready()
    assert wait_for_epoch(running, 1).startswith("digits-")
    assert running.stop(signal.SIGINT) == 0


def test_your_own_model_is_checked(project: Path, cli: Cli) -> None:  # noqa: F811
    answer = cli("check", "my-run.toml", timeout_s=120)
    assert answer.code == 0, answer.err
    assert "resume will be bitwise" in answer.out
    assert "it can be trained" in answer.out


def test_your_own_model_trains_and_can_be_looked_at(
    project: Path,
    up: Up,  # noqa: F811
    cli: Cli,  # noqa: F811
) -> None:
    running = up("--run", "my-run.toml", ESPER_TOLARIA__NICE="0")
    running.wait_ready()
    wait_for_epoch(running, 1)
    where = ("--state-dir", str(running.state_dir))
    assert "ready" in cli("status", *where).out
    assert "my-run" in cli("runs", *where).out
    assert cli("events", *where).code == 0
    assert cli("down", *where).code == 0
    assert running.process.wait(30) == 0


def test_grow_works_as_shown(project: Path) -> None:
    program = block_with("python", "from esper_async import grow")
    assert "epochs=30" in program
    said = run_python(program.replace("epochs=30", "epochs=3"), project)
    assert "loss" in said


def test_the_loop_works_as_shown(project: Path) -> None:
    program = block_with("python", "from esper_async import Grower")
    assert "range(30)" in program
    told = "\nprint(len(grower.history), len(grower.executor.seeds))"
    said = run_python(PRELUDE + program.replace("range(30)", "range(5)") + told, project)
    boundaries, seeds = map(int, said.split())
    assert boundaries == 5
    assert seeds > 0
