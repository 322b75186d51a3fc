"""`up` as a user starts it: a real process of the real command line, looked at from outside."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

COMMAND = (sys.executable, "-P", "-m", "esper_async.cli")
_POLL_S = 0.01


class UpError(RuntimeError):
    """`up` did not do in time what was waited for, or failed; the message holds what it said."""


@dataclass(frozen=True, slots=True)
class UpProcess:
    """A running `up`: its state directory, and when it was started by either clock."""

    process: subprocess.Popen[bytes]
    state: Path
    began: float
    began_at: float

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def url(self) -> str:
        """Where it listens; raises OSError before it does."""
        facts = json.loads((self.state / "supervisor.json").read_text())
        return f"http://{facts['host']}:{facts['port']}"

    def until(self, happened: Callable[[], bool], what: str, *, patience_s: float) -> float:
        """Look again and again; return the seconds from the start of the process.

        Raises:
            UpError: the process ended before, or the patience did.
        """
        while not happened():
            if self.process.poll() is not None:
                raise UpError(f"`up` ended with {self.process.returncode} before {what}")
            if time.monotonic() - self.began > patience_s:
                raise UpError(f"within {patience_s:g} s of its start `up` had not come to: {what}")
            time.sleep(_POLL_S)
        return time.monotonic() - self.began

    def ready(self) -> bool:
        """Ask /readyz; each process tells its own port."""
        try:
            facts = json.loads((self.state / "supervisor.json").read_text())
            if facts["pid"] != self.pid:
                return False
            with urllib.request.urlopen(
                f"http://{facts['host']}:{facts['port']}/readyz", timeout=5
            ):
                return True
        except (OSError, ValueError):
            return False

    def readiness(self) -> dict[str, Any]:
        """Return what /readyz says, whatever its status; nothing when nobody answers."""
        try:
            try:
                url = f"{self.url}/readyz"
                with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own
                    body: dict[str, Any] = json.loads(answer.read())
            except urllib.error.HTTPError as unready:
                with unready:
                    body = json.loads(unready.read())
        except (OSError, ValueError):
            return {}
        return body

    def said(self) -> str:
        """Return all that it has written so far."""
        return (self.state.parent / "said").read_text(errors="replace")

    def exit_code(self, patience_s: float) -> int | None:
        """Wait for its end; return its exit code, None when it still runs."""
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return None

    def end(self, *, patience_s: float, number: signal.Signals | None = None) -> None:
        """Wait until it has ended well, after a signal if one is given.

        Raises:
            UpError: it ended with an error, or not in time.
        """
        if number is not None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise UpError(f"`up` had not ended after {patience_s:g} s") from None
        if code != 0:
            raise UpError(f"`up` ended with {code}")


@contextmanager
def started(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[UpProcess]:
    """Start `up` in `folder`, with its state there; afterwards it does not run any more.

    Raises:
        UpError: as raised in the block, with the last of what the process said.
    """
    state = folder / "state"
    command = [*COMMAND, "up", "--port", "0", "--state-dir", str(state), *arguments]
    with (folder / "said").open("w+") as said:
        began, began_at = time.monotonic(), time.time()
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=folder, env=environment)
        try:
            yield UpProcess(process, state, began, began_at)
        except UpError as error:
            said.seek(0)
            raise UpError(f"{error}: {said.read()[-2000:]}") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


@contextmanager
def run_in_every_python(source: str) -> Iterator[None]:
    """Have every Python that is started, children of children too, run `source` first."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "sitecustomize.py").write_text(source)
        path = os.pathsep.join(filter(None, (scratch, os.environ.get("PYTHONPATH"))))
        with mock.patch.dict(os.environ, PYTHONPATH=path):
            yield


_mutation = ""


@contextmanager
def started_with(
    folder: Path, source: str, *arguments: str, run: Path | None = None
) -> Iterator[UpProcess]:
    """Start `up` after `source` and what a mutant of `breaking_up` has for it.

    It has the run that the file `run` tells of, or none.
    """
    chosen = ("--no-run",) if run is None else ("--run", str(run))
    with (
        run_in_every_python(source + _mutation),
        started(folder, *chosen, *arguments) as up,
    ):
        yield up


def breaking_up(source: str) -> Callable[[], AbstractContextManager[Any]]:
    """Return what breaks the process of each `started_with` by `source`, for a block."""
    indented = "\n    ".join(source.strip().splitlines())
    code = f'\nimport sys\nif "up" in sys.orig_argv:\n    {indented}\n'
    return lambda: mock.patch(f"{__name__}._mutation", code)
