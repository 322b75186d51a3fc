"""Asked over the real bus: the forge proves, the library's service hears of it."""

import asyncio
from pathlib import Path

import pytest

from esper_async.leyline.signing import Signer
from esper_async.oona import Bus, EmbeddedServer
from esper_async.tezzeret.service import TezzeretService
from esper_async.urza import Query
from esper_async.urza.service import UrzaService
from tests.tezzeret.live_forge import QUICK, ROOT, request, until


async def test_a_request_on_the_bus_ends_as_a_certificate_in_the_library(tmp_path: Path):
    server = EmbeddedServer(tmp_path / "redis")
    await server.start()
    async with Bus(server.url, signer=Signer(bytes(32)), source="test") as bus:
        urza = UrzaService(tmp_path, bus)
        forge = TezzeretService(
            tmp_path,
            bus,
            settings=QUICK,
            worker_target="tests.tezzeret.workers:scripted",
            environment={"PYTHONPATH": ROOT},
        )
        tasks = []
        for service in (urza, forge):
            ready = asyncio.Event()
            tasks.append(asyncio.create_task(service.run(ready.set)))
            await asyncio.wait_for(ready.wait(), 10)
        await bus.publish(request("BP002"))
        await bus.publish(request("refused"))
        await until(lambda: urza.detail()["kernels_ready"] == 3)
        await until(lambda: urza.detail()["kernels_failed"] == 1)
        assert urza.detail()["kernels_missing"] == 0
        assert len(urza.library.find(Query(kind="certificate"))) == 3
        for task in reversed(tasks):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    await server.stop()
