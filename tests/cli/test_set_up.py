"""bin/esper-supervisor sets up its own environment, once, and says what it cannot do without."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def copy_of_the_project(folder: Path, requirement: str) -> Path:
    """A project as small as can be, with our set-up scripts."""
    project = folder / "project with a space"
    shutil.copytree(ROOT / "bin", project / "bin")
    (project / "requirements").mkdir()
    for name in ("lock.txt", "test.txt"):
        (project / "requirements" / name).write_text(f"{requirement}\n")
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "esper-async"\nversion = "0.0.1"\n'
        '[tool.hatch.build.targets.wheel]\npackages = ["esper_async"]\n'
    )
    cli = project / "esper_async" / "cli"
    cli.mkdir(parents=True)
    (cli / "__main__.py").write_text("import sys; print('started', *sys.argv[1:])\n")
    return project


def start(project: Path, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [project / "bin" / "esper-supervisor", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "ESPER_PYTHON": sys.executable, **variables},
    )


def complete_by_hand(project: Path) -> None:
    """Make what a finished set-up leaves: an interpreter and the stamp."""
    venv = project / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    script = '. "$1/bin/environment.sh"; wanted_hash "$1/requirements/lock.txt"; echo $HASH'
    stamp = subprocess.run(
        ["bash", "-c", script, "-", project],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    (venv / ".esper-run").write_text(stamp)


def test_with_nothing_to_do_it_adds_next_to_nothing(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path, "iniconfig==2.3.1")
    complete_by_hand(project)
    (project / ".venv" / "bin" / "python").unlink()
    (project / ".venv" / "bin" / "python").symlink_to("/bin/true")

    def seconds() -> float:
        began = time.perf_counter()
        process = start(project)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")
        return time.perf_counter() - began

    # a call of pip or uv alone takes longer; the figure itself belongs to the start-up benchmark
    assert min(seconds() for _ in range(8)) <= 0.5


def test_arguments_and_exit_code_pass_through(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path, "iniconfig==2.3.1")
    complete_by_hand(project)
    process = start(project, "run", "a b", PYTHONPATH=str(project))
    out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("started run a b\n", "", 0)


def test_without_a_fitting_python_it_says_what_to_do(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path, "iniconfig==2.3.1")
    process = start(project, ESPER_PYTHON="/nowhere/python")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "Python 3.11, 3.12 or 3.13" in err
    assert "apt-get install" in err


def test_the_lock_files_pin_everything_and_name_no_index() -> None:
    for name in ("lock.txt", "test.txt"):
        lines = (ROOT / "requirements" / name).read_text().splitlines()
        assert any(line.startswith("torch==2.8.0") for line in lines)
        for line in lines:
            assert "==" in line, line
            assert "://" not in line, line
            assert not line.startswith("-"), line


def test_the_tests_environment_has_ours_at_the_same_versions() -> None:
    ours, tests = (
        {line.partition(" ;")[0] for line in (ROOT / "requirements" / name).read_text().split("\n")}
        for name in ("lock.txt", "test.txt")
    )
    assert ours <= tests


@pytest.mark.full
def test_a_set_up_that_was_killed_is_completed_and_two_at_once_wait_for_each_other(
    tmp_path: Path,
) -> None:
    project = copy_of_the_project(tmp_path, "iniconfig==2.3.1")
    first = start(project)
    python = project / ".venv" / "bin" / "python"
    while not python.exists() and first.poll() is None:
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert not (project / ".venv" / ".esper-run").exists()
    both = [start(project, "a"), start(project, "b")]
    for process, letter in zip(both, "ab", strict=True):
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert out == f"started {letter}\n"
    again = start(project)
    assert again.communicate(timeout=60) == ("started\n", "")
