"""What holds for the whole suite: with CI=true a skipped test is a failure."""

import os
import sys
from collections.abc import Iterator

import pytest
import structlog

_skipped: list[str] = []


@pytest.fixture(autouse=True)
def _logging_of_its_own() -> Iterator[None]:
    """A test that configures logging does so for itself: the next one's output is another file."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _import_path_of_its_own() -> Iterator[None]:
    """A task file's folder leads the path of its process: not that of the tests after it."""
    before = list(sys.path)
    yield
    sys.path[:] = before


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note each test that was skipped, and why."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        _skipped.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Turn a run that passed into one that failed when CI skipped something."""
    if os.environ.get("CI", "").lower() == "true" and _skipped and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which skips made the run fail."""
    if os.environ.get("CI", "").lower() == "true" and _skipped:
        terminalreporter.section("skipped, which CI does not allow")
        for line in _skipped:
            terminalreporter.line(line)
