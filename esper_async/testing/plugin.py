"""The pytest plugin: the fixture `esper`, a whole supervisor in the test's event loop.

pytest loads this module wherever Esper is installed, so it imports nothing that costs time.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from esper_async.testing.harness import Esper

try:
    from pytest_asyncio import fixture as async_fixture
except ImportError:  # pytest alone: the fixture explains itself when somebody asks for it
    async_fixture = pytest.fixture  # type: ignore[assignment]

MARKER = "esper(settings={}, fake_clock=False, library=None): how the fixture `esper` is booted"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", MARKER)


@async_fixture
async def esper(request: pytest.FixtureRequest, tmp_path: Path) -> "AsyncIterator[Esper]":
    """Boot a supervisor of the test's own; nothing that it starts outlives the test.

    `@pytest.mark.esper(settings={"nissa.alert_every_s": 1}, fake_clock=True)` says how; see
    `esper_async.testing.harness.Esper`.
    """
    from esper_async.testing.harness import Esper

    marker = request.node.get_closest_marker("esper")
    options: dict[str, Any] = {} if marker is None else dict(marker.kwargs)
    booted = Esper(tmp_path / "state", **options)
    await booted.start()
    try:
        yield booted
    finally:
        await booted.close()
