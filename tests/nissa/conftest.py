"""A whole Nissa over real parts: run queue, hub, catalogue, library, registry; no bus."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from esper_async.karn.service import KarnService
from esper_async.nissa.access import Access
from esper_async.nissa.alert_rules import RULES
from esper_async.nissa.alerts import AlertBook
from esper_async.nissa.app import build_app
from esper_async.nissa.context import NissaContext
from esper_async.nissa.event_store import EventStore
from esper_async.nissa.history import History
from esper_async.nissa.metrics import NissaMetrics
from esper_async.nissa.notify.outbox import Outbox
from esper_async.nissa.past_metrics import RolledUp
from esper_async.nissa.rate_limit import RateLimit
from esper_async.nissa.stream import Stream
from esper_async.oona.dead_letters import DeadLetter
from esper_async.runtime.clock import FakeClock
from esper_async.runtime.metrics import Registry
from esper_async.tamiyo.hub import Hub
from esper_async.tolaria.service import TolariaService
from esper_async.urza.library import Library
from tests.nissa import story

TOKEN = "a-token-for-tests-only"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class NoLetters:
    """A box without dead letters; `test_dead_letters` has a real one."""

    async def list(self, *, limit: int = 100, after: str = "-", topic: str = "") -> list[Any]:
        return []

    async def show(self, letter_id: str) -> DeadLetter:
        raise KeyError(letter_id)

    async def replay(self, letter_id: str) -> None:
        raise KeyError(letter_id)

    async def replay_all(self, *, topic: str = "") -> int:
        return 0

    async def purge(self, *letter_ids: str) -> int:
        return 0

    async def purge_all(self, *, topic: str = "") -> int:
        return 0


async def until(holds: Callable[[], bool], *, seconds: float = 20.0) -> None:
    """Wait for a condition; TimeoutError when it does not come about."""
    async with asyncio.timeout(seconds):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)


@dataclass
class World:
    """The context that is served, and the parts behind it."""

    context: NissaContext
    runs: TolariaService
    history: History
    system: dict[str, Any] = field(default_factory=lambda: {"status": "ready", "services": {}})

    @property
    def clock(self) -> FakeClock:
        clock = self.context.clock
        assert isinstance(clock, FakeClock)
        return clock


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock, registry = FakeClock(), Registry()
    hub = Hub(tmp_path / "runs", clock=clock)
    runs = TolariaService(tmp_path, lambda: "unix:///nowhere", clock=clock)
    metrics = NissaMetrics(registry)
    events = EventStore(tmp_path / "nissa" / "events.sqlite", clock=clock)
    events.open()
    history, outbox = History(tmp_path / "metrics.sqlite"), Outbox(tmp_path / "outbox.sqlite")
    history.open()
    outbox.open()
    system: dict[str, Any] = {"status": "ready", "services": {}}
    context = NissaContext(
        hub=hub,
        runs=runs,
        blueprints=KarnService(tmp_path, metrics=registry),
        kernels=Library(tmp_path / "urza"),
        policies=None,
        dead_letters=NoLetters,
        events=events,
        alerts=AlertBook(RULES, clock=clock),
        outbox=outbox,
        past=RolledUp(history),
        stream=Stream(metrics),
        registry=registry,
        metrics=metrics,
        system=lambda: system,
        access=Access(TOKEN),
        changes=RateLimit(20, clock=clock),
        refusals=RateLimit(20, clock=clock),
        clock=clock,
        started_at=clock.monotonic(),
        versions={"esper": "0.1.0"},
    )
    yield World(context, runs, history, system)
    events.close()
    history.close()
    outbox.close()


@pytest.fixture
async def client(world: World) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(build_app(world.context))) as client:
        yield client


@pytest.fixture
def told(world: World, tmp_path: Path) -> Callable[..., Any]:
    """Write the story's journal into the state directory and have the hub read it."""

    async def tell() -> str:
        story.write(tmp_path / "runs" / story.RUN / "journal.jsonl")
        await world.context.hub.rebuild()
        return story.RUN

    return tell
