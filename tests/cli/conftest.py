"""The command line as a user meets it: a process, its streams, its exit code, what it leaves."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from esper_async.study.bench.command_line import processes_of

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-P", "-m", "esper_async.cli"]  # as bin/esper-supervisor does


def environment(**further: str) -> dict[str, str]:
    """The test's own environment without Esper's variables."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ESPER_")}
    return {**kept, "OMP_NUM_THREADS": "1", **further}


@dataclass(frozen=True)
class Answer:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Answer]


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """Run a command to its end; afterwards nothing of it may still run."""

    def run(*arguments: str, timeout_s: float = 60, **variables: str) -> Answer:
        done = subprocess.run(
            [*COMMAND, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=environment(**variables),
            cwd=tmp_path,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    yield run
    assert processes_of(tmp_path) == []


class Running:
    """An `up` in the background."""

    def __init__(self, folder: Path, arguments: tuple[str, ...], variables: dict[str, str]) -> None:
        self.state_dir = folder / "state"
        self.errors = (folder / "stderr").open("w+")
        self.lines = (folder / "stdout").open("w+")
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [*COMMAND, "up", "--state-dir", str(self.state_dir), "--port", "0", *arguments],
            stdout=self.lines,
            stderr=self.errors,
            env=environment(**variables),
            cwd=folder,
        )

    def facts(self) -> dict[str, Any]:
        return dict(json.loads((self.state_dir / "supervisor.json").read_text()))

    def url(self, path: str) -> str:
        facts = self.facts()
        return f"http://{facts['host']}:{facts['port']}{path}"

    def wait_ready(self, timeout_s: float = 30) -> float:
        """Wait for /readyz to answer 200; return the seconds since the start of the process."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(self.url("/readyz"), timeout=5):
                    return time.monotonic() - self.began
            except (OSError, ValueError):
                time.sleep(0.02)
        self.errors.seek(0)
        raise AssertionError(f"not ready: {self.errors.read()[-3_000:]}")

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 40) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def said(self) -> str:
        self.lines.seek(0)
        return self.lines.read()


Up = Callable[..., Running]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """Start supervisors; each is stopped at the end and must leave nothing behind."""
    started: list[Running] = []

    def start(*arguments: str, **variables: str) -> Running:
        running = Running(tmp_path, arguments, variables)
        started.append(running)
        return running

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
        running.errors.close()
        running.lines.close()
    deadline = time.monotonic() + 10
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(tmp_path) == []
