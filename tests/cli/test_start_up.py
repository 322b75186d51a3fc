"""The command line starts fast, imports little, and never torch."""

import subprocess
import sys
import time

import pytest

from tests.cli.conftest import COMMAND, Cli, environment


def test_help_answers_in_well_under_half_a_second() -> None:
    def once() -> float:
        began = time.perf_counter()
        subprocess.run([*COMMAND, "--help"], check=True, capture_output=True, env=environment())
        return time.perf_counter() - began

    assert min(once() for _ in range(5)) <= 0.4


def imported_by(code: str) -> set[str]:
    program = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    return set(done.stdout.split())


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "aiohttp", "pydantic", "rich", "redis", "structlog"}
    assert not heavy & imported_by("import esper_async.cli.main")


@pytest.mark.parametrize(
    "module", ["esper_async.supervisor.app", "esper_async.cli.up", "esper_async.cli.running"]
)
def test_the_supervisor_never_imports_torch(module: str) -> None:
    assert not {"torch", "numpy", "sklearn"} & imported_by(f"import {module}")


def test_help_lists_the_commands_and_exit_codes(cli: Cli) -> None:
    answer = cli("--help")
    assert answer.code == 0
    for word in ("up", "down", "status", "runs", "check", "doctor", "Exit codes"):
        assert word in answer.out


def test_the_version_is_told(cli: Cli) -> None:
    assert cli("--version").out.startswith("esper-supervisor ")
    assert set(cli("--version", "--json").document) == {"version"}
