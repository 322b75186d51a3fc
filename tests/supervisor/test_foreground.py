"""A supervisor in the foreground, with the process to itself."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from esper_async.supervisor.app import run_in_foreground


class Looking:
    """In a supervisor's place: notes what the collector leaves alone while it runs."""

    overdue: tuple[str, ...] = ()
    failed: tuple[Any, ...] = ()
    frozen = 0

    async def run(self) -> int:
        self.frozen = gc.get_freeze_count()
        return 0


@pytest.fixture
def thawed() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("thawed")
def test_the_collector_does_not_hold_the_loop_up_by_looking_through_what_was_imported() -> None:
    supervisor: Any = Looking()
    loaded = len(gc.get_objects())
    assert run_in_foreground(lambda: supervisor) == 0
    assert supervisor.frozen > 0.9 * loaded
