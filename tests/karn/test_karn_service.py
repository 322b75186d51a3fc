"""The service answers while it runs, and takes its tallies from field reports."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from google.protobuf.message import Message

from esper_async.karn.catalogue import Query
from esper_async.karn.service import KarnService
from esper_async.leyline import Alert, EventEnvelope, FieldReport, FieldReportOutcome
from esper_async.runtime.metrics import Registry

Handler = Callable[[Message, EventEnvelope], Awaitable[None]]


class OneShotBus:
    """Hands over its messages once and then waits, as a bus with nothing new does."""

    def __init__(self, *messages: Message) -> None:
        self.messages = messages
        self.asked: list[tuple[str, str, bool]] = []
        self.done = asyncio.Event()

    async def consume(
        self, topic: str, group: str, handler: Handler, *, consumer: str, optional: bool = False
    ) -> None:
        self.asked.append((topic, group, optional))
        for message in self.messages:
            await handler(message, EventEnvelope())
        self.done.set()
        await asyncio.Event().wait()


def report(report_id: str, outcome: FieldReportOutcome.ValueType) -> FieldReport:
    return FieldReport(report_id=report_id, blueprint_id="BP009", outcome=outcome)


async def running(service: KarnService) -> asyncio.Task[None]:
    started = asyncio.Event()
    task = asyncio.create_task(service.run(started.set))
    await asyncio.wait_for(started.wait(), 5)
    return task


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_service_without_a_bus_stands_alone_and_answers(tmp_path: Path) -> None:
    service = KarnService(tmp_path, metrics=Registry())
    assert service.needs == ()
    task = await running(service)
    assert len(service.selector.select(Query()).records) >= 14
    implemented = sum(record.implemented for record in service.records)
    assert service.detail() == {
        "blueprints": 50, "implemented": implemented, "conservative": False,
    }  # fmt: skip
    assert service.breakers() == {"karn.tallies": "closed"}
    await stop(task)
    with pytest.raises(RuntimeError, match="not running"):
        _ = service.selector


async def test_reports_are_tallied_once_and_what_is_no_report_is_left(tmp_path: Path) -> None:
    success = FieldReportOutcome.FIELD_REPORT_OUTCOME_SUCCESS
    bus = OneShotBus(
        report("r1", success),
        report("r1", success),
        report("r2", FieldReportOutcome.FIELD_REPORT_OUTCOME_ABORTED),
        report("r3", FieldReportOutcome.FIELD_REPORT_OUTCOME_UNSPECIFIED),
        Alert(),
    )
    service = KarnService(tmp_path, metrics=Registry(), bus=bus)
    assert service.needs == ("oona",)
    task = await running(service)
    await asyncio.wait_for(bus.done.wait(), 5)
    tallies = await service.tallies()
    assert tallies is not None
    assert tallies["BP009"].outcomes == {
        "success": 1, "neutral": 0, "regression": 0, "aborted": 1,
    }  # fmt: skip
    assert bus.asked == [("field_reports", "karn", True)]
    await stop(task)


async def test_tallies_survive_a_restart_of_the_service(tmp_path: Path) -> None:
    service = KarnService(tmp_path, metrics=Registry())
    for _ in range(2):
        task = await running(service)
        service.selector.request("BP021")
        await stop(task)
    task = await running(service)
    tallies = await service.tallies()
    assert tallies is not None
    assert tallies["BP021"].requests == 2
    await stop(task)


async def test_counts_that_cannot_be_read_are_not_known_and_never_zero(tmp_path: Path) -> None:
    service = KarnService(tmp_path, metrics=Registry())
    assert await service.tallies() is None
    task = await running(service)
    assert await service.tallies() == {}
    for file in (tmp_path / "karn").iterdir():
        file.unlink()
    (tmp_path / "karn" / "tallies.sqlite").write_bytes(b"no database, surely" * 100)
    assert await service.tallies() is None
    await stop(task)
