"""Oona's supervisor side: starts Redis, keeps it up, and carries what dead children left."""

import asyncio
import contextlib
import signal
import sqlite3
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf.message import Message

from esper_async.leyline.signing import Signer
from esper_async.oona import Bridge, BusSettings, BusUnavailable, EmbeddedServer
from esper_async.oona.connection import connect
from esper_async.oona.errors import ServerStartError
from esper_async.oona.service import OonaService
from esper_async.oona.spool import Spool
from esper_async.runtime.errors import BreakerOpen
from esper_async.testing.redis import running_redis
from tests.oona.conftest import FAST, KEY, Inbox, alert, process_exists, report, until
from tests.oona.test_bus import consuming


@contextlib.asynccontextmanager
async def running(
    state_dir: Path, settings: BusSettings = FAST, **options: str
) -> AsyncIterator[OonaService]:
    service = OonaService(state_dir, signer=Signer(KEY), settings=settings, **options)
    ready = asyncio.Event()
    task = asyncio.create_task(service.run(ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        task.result()
    try:
        yield service
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_it_serves_a_bus_over_its_own_server_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as service:
        inbox = Inbox()
        async with consuming(service.bus, "alerts", "nissa", inbox):
            await service.bus.publish(alert(1))
            assert await inbox.has(1) == [alert(1)]
        assert await service.dead_letters.count() == 0
        detail = service.detail()
        pid = detail["pid"]
        assert isinstance(pid, int)
        assert detail["redis"] == "embedded"
        assert service.breakers.states() == {"oona.publish": "closed"}
    assert not process_exists(pid)
    with pytest.raises(RuntimeError, match="not ready"):
        _ = service.bus


async def written(server: EmbeddedServer) -> None:
    """Wait until what was answered is in the append-only file.

    With `everysec` a write waits, for two seconds at most, while the fsync before it is slow.
    """
    client = connect(server.url, timeout_s=5.0)
    try:
        await client.set("mark", "1")  # a client waits for its own writes, and what was before them
        await client.execute_command("WAITAOF", 1, 0, 5000)
    finally:
        await client.aclose()


async def test_it_starts_a_killed_server_again_with_its_data(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        assert service.server is not None
        await service.bus.publish(alert(1))
        await written(service.server)
        service.server.signal(9)  # type: ignore[arg-type]
        await until(lambda: service.detail()["redis_restarts"] == 1)
        inbox = Inbox()
        async with consuming(service.bus, "alerts", "nissa", inbox):
            assert await inbox.has(1) == [alert(1)]


async def test_a_server_that_dies_again_while_it_starts_is_no_end_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all that needs the bus would end with it, and runs would be drained."""
    async with running(tmp_path) as service:
        assert service.server is not None
        whole, died = service.server.start, asyncio.Event()
        up = asyncio.Event()

        async def dies_once() -> None:
            if not died.is_set():
                died.set()
                raise ServerStartError("the Redis server ended with code -9")
            await whole()
            up.set()

        monkeypatch.setattr(service.server, "start", dies_once)
        service.server.signal(9)  # type: ignore[arg-type]
        await until(up.is_set)
        inbox = Inbox()
        async with consuming(service.bus, "alerts", "nissa", inbox):
            await service.bus.publish(alert(1))
            assert await inbox.has(1) == [alert(1)]


async def test_who_uses_the_server_waits_for_it_and_is_told_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By nothing else would they be back here: pauses and open breakers last an hour."""
    hour = 3_600.0
    patient = replace(FAST, reconnect_cap_s=hour, publish_open_s=hour, consume_open_s=hour)
    async with running(tmp_path, patient) as service:
        assert service.server is not None
        inbox, start = Inbox(), service.server.start
        known, mended = asyncio.Event(), asyncio.Event()

        async def starts() -> str:
            known.set()
            await mended.wait()
            return await start()

        monkeypatch.setattr(service.server, "start", starts)
        async with consuming(service.bus, "alerts", "nissa", inbox):
            await service.bus.publish(alert(1))
            await inbox.has(1)
            service.server.signal(signal.SIGKILL)
            await known.wait()
            for _ in range(patient.breaker_failures):
                with pytest.raises(BusUnavailable):
                    await service.bus.publish(alert(2))
            with pytest.raises(BreakerOpen):
                await service.bus.publish(alert(2))
            mended.set()
            await until(lambda: service.server is not None and service.server.pid is not None)
            await until(lambda: published(service, alert(3)))
            await inbox.has(2)
    assert inbox.messages == [alert(1), alert(3)]


async def published(service: OonaService, message: Message) -> bool:
    try:
        await service.bus.publish(message)
    except (BusUnavailable, BreakerOpen):
        return False
    return True


async def test_it_carries_the_spool_of_a_dead_child(tmp_path: Path) -> None:
    bridge = Bridge("unix:///nowhere", tmp_path / "runs" / "r1" / "spool", KEY, "r1").start()
    bridge.spool(report(1))
    closed = await asyncio.to_thread(bridge.close, 0.1)
    assert closed.unacknowledged == 1
    async with running(tmp_path) as service:
        inbox = Inbox()
        async with consuming(service.bus, "field_reports", "simic", inbox):
            assert await inbox.has(1) == [report(1)]


@pytest.mark.parametrize("where", ["opened", "read"])
async def test_a_full_disk_under_a_dead_childs_spool_is_no_end_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    bridge = Bridge("unix:///nowhere", tmp_path / "runs" / "dead" / "spool", KEY, "dead").start()
    bridge.spool(report(1))
    await asyncio.to_thread(bridge.close, 0.1)
    failed = threading.Event()
    full = sqlite3.OperationalError("database or disk is full")

    def opened(directory: Path, *, patience_s: float = 5.0) -> Spool:
        first = "runs" in directory.parts and not failed.is_set()
        if first:
            failed.set()
        if first and where == "opened":
            raise full
        spool = Spool(directory, patience_s=patience_s)
        if first:
            monkeypatch.setattr(spool, "after", unreadable)
        return spool

    def unreadable(*_: object) -> list[object]:
        raise full

    monkeypatch.setattr("esper_async.oona.service.Spool", opened)
    monkeypatch.setattr("esper_async.oona.service._ADOPT_EVERY_S", 0.05)
    async with running(tmp_path) as service:
        inbox = Inbox()
        async with consuming(service.bus, "field_reports", "simic", inbox):
            assert await inbox.has(1) == [report(1)]
    assert failed.is_set()


async def test_a_dead_url_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(BusUnavailable, match=r"oona\.redis_url"):
        async with running(tmp_path, redis_url="redis://127.0.0.1:1/0"):
            pass


async def test_an_external_server_is_used_and_left_running(tmp_path: Path) -> None:
    async with running_redis() as server:
        async with running(tmp_path, redis_url=server.url) as service:
            assert service.detail()["redis"] == "external"
            await service.bus.publish(alert(1))
        assert server.pid is not None


async def test_a_spool_that_opens_while_the_service_ends_is_closed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Spool(tmp_path / "runs" / "dead" / "spool").close()
    began, may_open = threading.Event(), threading.Event()

    def slowly(directory: Path, *, patience_s: float = 5.0) -> Spool:
        if "runs" in directory.parts:
            began.set()
            may_open.wait(30)
        return Spool(directory, patience_s=patience_s)

    monkeypatch.setattr("esper_async.oona.service.Spool", slowly)
    async with running(tmp_path):
        await asyncio.to_thread(began.wait, 30)
        asyncio.get_running_loop().call_later(0.05, may_open.set)
    Spool(tmp_path / "runs" / "dead" / "spool", patience_s=0.0).close()  # nobody has it
