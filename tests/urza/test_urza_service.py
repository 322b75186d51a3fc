"""The library's service counts, sweeps, hears of kernels, and stops when told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from esper_async.leyline import BlueprintDescriptor, EventEnvelope, KernelError, KernelReady
from esper_async.runtime.metrics import Registry
from esper_async.urza import Library, Lifecycle, Query
from esper_async.urza.service import UrzaService, UrzaSettings


class QuietBus:
    """Keeps the handler, so that a test can deliver to it."""

    def __init__(self) -> None:
        self.handler: Callable[..., Awaitable[None]] | None = None
        self.consuming: tuple[str, str] | None = None

    async def consume(self, topic: str, group: str, handler, *, consumer: str) -> None:
        self.consuming, self.handler = (topic, group), handler
        await asyncio.Event().wait()

    async def deliver(self, message: object) -> None:
        assert self.handler is not None
        await self.handler(message, EventEnvelope())


@asynccontextmanager
async def running(state_dir: Path, registry: Registry | None = None) -> AsyncIterator:
    bus = QuietBus()
    settings = UrzaSettings(count_every_s=0.01, sweep_every_s=0.01, sweep_rest_s=0.0)
    service = UrzaService(state_dir, bus, settings=settings, registry=registry)
    ready = asyncio.Event()
    task = asyncio.create_task(service.run(ready.set))
    await asyncio.wait_for(ready.wait(), 10)
    try:
        yield SimpleNamespace(service=service, bus=bus)
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is awaited is in a thread
            await asyncio.sleep(0.005)


async def test_it_counts_what_others_put(tmp_path: Path):
    other = Library(tmp_path / "urza")
    registry = Registry()
    async with running(tmp_path, registry) as live:
        other.put_certificate("k", {"passed": True}, blueprint="BP009", interface="s")
        await until(lambda: live.service.detail()["assets"] == {"active": 1})
        assert live.service.detail()["kinds"] == {"certificate": 1}
        assert live.service.breakers.states() == {"urza": "closed"}
        assert live.bus.consuming == ("kernel_events", "urza")
        text = registry.exposition()[0].decode()
        assert 'esper_urza_assets{lifecycle="active"} 1.0' in text
    other.close()


async def test_a_sweep_finds_a_damaged_blob_that_nobody_has_read(tmp_path: Path):
    other = Library(tmp_path / "urza")
    asset = other.put("k", b"content", kind="kernel")
    registry = Registry()
    async with running(tmp_path, registry) as live:
        await until(lambda: live.service.detail()["last_sweep"] is not None)
        other._shelves._blobs.path(asset.blob).write_bytes(b"Content")
        await until(lambda: live.service.detail()["integrity_failures"] == 1)
        assert other.get("k") is None
        assert other.find(Query(lifecycle=Lifecycle.QUARANTINED))[0].key == "k"
        text = registry.exposition()[0].decode()
        assert 'esper_urza_integrity_failures_total{what="blob"} 1.0' in text
    other.close()


async def test_an_announced_kernel_is_looked_for(tmp_path: Path):
    async with running(tmp_path) as live:
        live.service.library.put_certificate("here", {}, blueprint="B", interface="s")
        await live.bus.deliver(KernelReady(certificate_key="here"))
        await live.bus.deliver(KernelReady(certificate_key="nowhere"))
        await live.bus.deliver(KernelError(reason="no"))
        detail = live.service.detail()
        assert detail["kernels_ready"] == detail["kernels_missing"] == 1
        assert detail["kernels_failed"] == 1


async def test_a_described_blueprint_is_kept_as_a_version(tmp_path: Path):
    async with running(tmp_path) as live:
        for description in ("first", "first", "second"):
            message = BlueprintDescriptor(blueprint_id="BP009", description=description)
            await live.bus.deliver(message)
        content = live.service.library.read("blueprint:BP009")
        assert BlueprintDescriptor.FromString(content).description == "second"
        assert live.service.library.get("blueprint:BP009").version == 2


async def test_it_can_be_run_again_after_it_was_stopped(tmp_path: Path):
    service = UrzaService(tmp_path, QuietBus())
    for _ in range(2):
        ready = asyncio.Event()
        task = asyncio.create_task(service.run(ready.set))
        await asyncio.wait_for(ready.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_making_it_touches_no_disk(tmp_path: Path):
    service = UrzaService(tmp_path, QuietBus())
    assert service.detail()["assets"] == {}
    assert service.breakers.states() == {"urza": "closed"}
    assert list(tmp_path.iterdir()) == []
