"""The foreground: what the process does that the supervisor in it cannot."""

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from esper_async.supervisor import app
from esper_async.supervisor.settings import Settings


class Stuck:
    """A supervisor that is told to stop, and then blocks its event loop until it is ended."""

    overdue: tuple[str, ...] = ()
    failed: tuple[Any, ...] = ()
    on_stuck = None

    def __init__(self, ended: threading.Event) -> None:
        self.settings = SimpleNamespace(supervisor=SimpleNamespace(shutdown_deadline_s=0.05))
        self._stopped = asyncio.Event()
        self._ended = ended

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        await self._stopped.wait()
        assert self._ended.wait(timeout=30), "nobody has ended the process"  # blocks on purpose
        return 0


def test_a_process_whose_loop_is_blocked_while_it_stops_is_ended_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended, reasons = threading.Event(), list[str]()

    def end_at_once(why: str) -> None:
        reasons.append(why)
        ended.set()

    monkeypatch.setattr(app, "END_MARGIN_S", 0.0)
    monkeypatch.setattr(app, "_end_at_once", end_at_once)
    stuck: Any = Stuck
    assert app.run_in_foreground(lambda: stuck(ended)) == 0
    assert reasons == [
        "not stopped within 0.05 s (supervisor.shutdown_deadline_s): ended as it was"
    ]


def test_the_parts_of_a_drain_fit_into_ten_seconds() -> None:
    """A training process that must be killed, then the bus's server that must be, and the rest."""
    from esper_async.oona.service import _STOP_S

    settings = Settings()
    whole_s = settings.supervisor.shutdown_deadline_s
    assert whole_s + app.END_MARGIN_S < 10.0
    assert settings.tolaria.stop_s + _STOP_S + 1.0 < whole_s


class Looking:
    """In a supervisor's place: notes what the collector leaves alone while it runs."""

    overdue: tuple[str, ...] = ()
    failed: tuple[Any, ...] = ()
    frozen = 0
    settings = SimpleNamespace(supervisor=SimpleNamespace(shutdown_deadline_s=30.0))
    on_stuck = None

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
    assert app.run_in_foreground(lambda: supervisor) == 0
    assert supervisor.frozen > 0.9 * loaded
