"""A whole Nissa on a port of its own, with real parts behind it and no bus."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from esper_async.karn.service import KarnService
from esper_async.nissa.app import problems
from esper_async.nissa.options import NissaOptions, NissaParts
from esper_async.nissa.service import NissaService
from esper_async.oona.dead_letters import DeadLetter
from esper_async.runtime.metrics import Registry
from esper_async.tamiyo.hub import Hub
from esper_async.tolaria.service import TolariaService
from esper_async.urza.library import Library

TOKEN = "a-token-for-benchmarks"  # noqa: S105 - of a throw-away installation
READY = {"state": "ready", "since": 1e9, "restarts": 0, "breakers": {}, "detail": {}}
SERVICES = ("http", "oona", "karn", "urza", "tezzeret", "tolaria", "kasmina", "tamiyo", "simic")


class NoBus:
    """A bus that is away, and its box of dead letters, which is empty."""

    async def consume(self, *_: Any, **__: Any) -> None:
        """Say that there is none."""
        raise RuntimeError("there is no bus here")

    async def list(self, **_: Any) -> "list[DeadLetter]":
        """No letters."""
        return []

    async def show(self, letter_id: str) -> DeadLetter:
        """No letter."""
        raise KeyError(letter_id)

    async def replay(self, letter_id: str) -> None:
        """No letter."""
        raise KeyError(letter_id)

    async def replay_all(self, **_: Any) -> int:
        """No letters."""
        return 0

    async def purge(self, *_: str) -> int:
        """No letters."""
        return 0

    async def purge_all(self, **_: Any) -> int:
        """No letters."""
        return 0


@dataclass(frozen=True, slots=True)
class House:
    """What is served, and from where."""

    url: str
    nissa: NissaService
    hub: Hub
    registry: Registry
    runs: TolariaService


@asynccontextmanager
async def nissa_house(
    state_dir: Path, *, options: NissaOptions | None = None, port: int = 0
) -> AsyncIterator[House]:
    """Serve until the block ends."""
    registry, bus = Registry(), NoBus()
    hub, runs = Hub(state_dir / "runs"), TolariaService(state_dir, lambda: "unix:///nowhere")
    app = web.Application(middlewares=[problems])
    system = {"status": "ready", "services": {name: dict(READY) for name in SERVICES}}

    @contextmanager
    def mount(routes: Iterable[web.AbstractRouteDef]) -> Iterator[None]:
        app.add_routes(routes)
        yield

    karn = KarnService(state_dir, metrics=registry)
    parts = NissaParts(
        hub=hub, runs=runs, blueprints=karn,
        kernels=Library(state_dir / "urza"), policies=None, system=lambda: system, bus=bus,
        dead_letters=lambda: bus, mount=mount,
    )  # fmt: skip
    nissa = NissaService(
        state_dir, parts, token=TOKEN, registry=registry, options=options,
        versions={"esper": "benchmark"},
    )  # fmt: skip
    async with asyncio.TaskGroup() as group:
        serving = []
        for service in (karn, nissa):
            up = asyncio.Event()
            serving.append(group.create_task(service.run(up.set)))
            await up.wait()
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port)
            await site.start()
            yield House(f"http://127.0.0.1:{runner.addresses[0][1]}", nissa, hub, registry, runs)
        finally:
            for task in reversed(serving):
                task.cancel()
                await asyncio.wait([task])
            await runner.cleanup()
