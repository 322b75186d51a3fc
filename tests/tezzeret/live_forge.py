"""A running forge for the tests, and how to ask it and wait for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from esper_async.leyline import KernelError, KernelReady, KernelRequest, SiteInterface
from esper_async.tezzeret.service import TezzeretService
from esper_async.tezzeret.settings import ForgeSettings
from tests.tezzeret.quiet_bus import QuietBus

ROOT = str(Path(__file__).parents[2])
SITE = SiteInterface(kind="spatial", shape=[8, 4, 4])
QUICK = ForgeSettings(
    job_limit_s=20.0, start_limit_s=20.0, idle_s=30.0, recheck_s=0.05, retry_s=0.01, nice=0
)


def request(blueprint: str, name: str = "", **changes: object) -> KernelRequest:
    fields = {"interface": SITE, "blueprint_id": blueprint, "run_id": "run", **changes}
    return KernelRequest(version=1, request_id=name or f"ask-{blueprint}", **fields)


def proved_in(state_dir: Path) -> list[str]:
    notes = state_dir / "proved.txt"
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [line.split()[1] for line in lines]


def has_proved(state_dir: Path, least: int) -> bool:
    return len(proved_in(state_dir)) >= least


@dataclass
class Live:
    service: TezzeretService
    bus: QuietBus
    state_dir: Path

    def proved(self) -> list[str]:
        return proved_in(self.state_dir)

    def answer(self, name: str) -> KernelReady | KernelError | None:
        found = [message for message in self.bus.published if message.request_id == name]
        assert len(found) <= 1
        return found[0] if found else None

    async def answered(self, name: str) -> KernelReady | KernelError:
        await until(lambda: self.answer(name) is not None)
        answer = self.answer(name)
        assert answer is not None
        return answer


@asynccontextmanager
async def forge(
    state_dir: Path,
    *,
    target: str = "scripted",
    settings: ForgeSettings = QUICK,
    bus: QuietBus | None = None,
    fingerprint: str = "code",
) -> AsyncIterator[Live]:
    bus = bus or QuietBus()
    service = TezzeretService(
        state_dir,
        bus,
        settings=settings,
        worker_target=f"tests.tezzeret.workers:{target}",
        environment={"PYTHONPATH": ROOT},
        fingerprint=lambda: fingerprint,
    )
    async with running(service, bus, state_dir) as live:
        yield live


@asynccontextmanager
async def running(service: TezzeretService, bus: QuietBus, state_dir: Path) -> AsyncIterator[Live]:
    ready = asyncio.Event()
    task = asyncio.create_task(service.run(ready.set))
    await asyncio.wait_for(ready.wait(), 10)
    await until(lambda: bus.handler is not None)
    try:
        yield Live(service, bus, state_dir)
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is awaited is in another process
            await asyncio.sleep(0.005)
