"""A whole Nissa on a port of its own, whose run can be told record by record.

`python tests/browser/serving.py [PORT] [--at N] [--live]` serves the recorded story for looking at.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

sys.path.append(str(Path(__file__).parent.parent / "nissa"))
import story

from esper_async.karn.service import KarnService
from esper_async.nissa.service import NissaOptions, NissaParts, NissaService
from esper_async.oona.dead_letters import DeadLetter
from esper_async.runtime.metrics import Registry
from esper_async.supervisor.http import HttpListener
from esper_async.tamiyo.hub import Hub
from esper_async.tolaria.run_file import parse_run
from esper_async.tolaria.service import TolariaService
from esper_async.urza.library import Library

TOKEN = "a-token-for-tests-only"


class NoBus:
    """A bus that is away."""

    async def consume(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("there is no bus in this test")

    async def list(self, **_: Any) -> "list[DeadLetter]":
        return []


@dataclass
class Served:
    """What a test needs of a served Nissa."""

    url: str
    nissa: NissaService
    hub: Hub
    tolaria: TolariaService
    run_id: str
    system: dict[str, Any]
    records: list[dict[str, Any]]

    async def tell(self, records: Iterable[dict[str, Any]]) -> None:
        """Let records arrive as they would from the bus."""
        for record in records:
            await self.hub.accept(record)


def services() -> dict[str, Any]:
    """A system in which everything is ready."""
    names = ("http", "oona", "karn", "urza", "kasmina", "tezzeret", "tamiyo", "tolaria", "simic")
    ready = {"state": "ready", "since": 1e9, "restarts": 0, "breakers": {}, "detail": {}}
    return {"status": "ready", "services": {name: dict(ready) for name in (*names, "nissa")}}


@asynccontextmanager
async def serving(state_dir: Path, *, port: int = 0, at: int = 0) -> AsyncIterator[Served]:
    """Serve a Nissa that has been told the first `at` records of the story."""
    hub = Hub(state_dir / "runs")
    tolaria = TolariaService(state_dir, lambda: "unix:///nowhere")
    config = {"run": {"task": "esper_async.tasks.digits:make_task", "name": "digits", "epochs": 32}}
    run = tolaria.store.create(parse_run(config))
    run.state = "running"
    listener, bus, system = HttpListener("127.0.0.1", port), NoBus(), services()

    @contextmanager
    def mount(routes: Iterable[web.AbstractRouteDef]) -> Iterator[None]:
        with listener.mounted(routes):
            yield

    parts = NissaParts(
        hub=hub, runs=tolaria, blueprints=KarnService(state_dir, metrics=Registry()),
        kernels=Library(state_dir / "urza"), policies=None, system=lambda: system, bus=bus,
        dead_letters=lambda: bus, mount=mount,
    )  # fmt: skip
    options = NissaOptions(status_every_s=0.5, alert_every_s=0.2)
    nissa = NissaService(
        state_dir, parts, token=TOKEN, registry=Registry(), options=options,
        versions={"esper": "0.1.0"},
    )  # fmt: skip
    records = [{**record, "run": run.id} for record in story.numbered()]
    async with asyncio.TaskGroup() as group:
        tasks = []
        for service in (listener, nissa):
            up = asyncio.Event()
            tasks.append(group.create_task(service.run(up.set)))
            await up.wait()
        served = Served(listener.url, nissa, hub, tolaria, run.id, system, records)
        await served.tell(records[:at])
        yield served
        for task in reversed(tasks):
            task.cancel()


async def main() -> None:
    """Serve the story until interrupted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int, nargs="?", default=8799)
    parser.add_argument("--at", type=int, default=10_000)
    parser.add_argument("--live", type=float, default=0.0, help="seconds between records")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        async with serving(Path(folder), port=chosen.port, at=chosen.at) as served:
            sys.stdout.write(json.dumps({"url": served.url}) + "\n")
            sys.stdout.flush()
            if chosen.at >= len(served.records):
                served.tolaria.get(served.run_id).state = "completed"
            for record in served.records[chosen.at :] if chosen.live else ():
                await asyncio.sleep(chosen.live)
                await served.tell([record])
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
