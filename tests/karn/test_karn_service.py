"""The service answers while it runs, and takes its tallies from field reports."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest
from google.protobuf.message import Message

from esper_async.karn.catalogue import Query
from esper_async.karn.record import Interface
from esper_async.karn.service import KarnService
from esper_async.leyline import (
    Alert,
    BlueprintDescriptor,
    BlueprintQuery,
    BlueprintTier,
    EventEnvelope,
    FieldReport,
    FieldReportOutcome,
    KernelRequest,
)
from esper_async.leyline import SiteInterface as SiteInterfaceMessage
from esper_async.runtime.metrics import Registry

Handler = Callable[[Message, EventEnvelope], Awaitable[None]]


class OneShotBus:
    """Hands over a topic's messages once and then waits, as a bus with nothing new does."""

    def __init__(self, *messages: Message, topic: str = "field_reports") -> None:
        self.messages = {topic: messages}
        self.asked: list[tuple[str, str, bool]] = []
        self.published: list[tuple[str, Message]] = []
        self.done = asyncio.Event()

    async def publish_many(
        self, messages: Sequence[Message], *, correlation_id: str = ""
    ) -> list[str]:
        self.published += [(correlation_id, message) for message in messages]
        return ["id"] * len(messages)

    async def consume(
        self, topic: str, group: str, handler: Handler, *, consumer: str, optional: bool = False
    ) -> None:
        self.asked.append((topic, group, optional))
        for message in self.messages.get(topic, ()):
            await handler(message, EventEnvelope())
        if topic in self.messages:
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
    task = await running(service)
    assert len(service.selector.select(Query()).records) == 35
    assert service.detail() == {"blueprints": 50, "conservative": False}
    assert service.breakers.states() == {"karn.tallies": "closed"}
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
    task = await running(service)
    await asyncio.wait_for(bus.done.wait(), 5)
    tallies = await service.tallies()
    assert tallies is not None
    assert tallies["BP009"].outcomes == {
        "success": 1, "neutral": 0, "regression": 0, "aborted": 1,
    }  # fmt: skip
    assert sorted(bus.asked) == [("field_reports", "karn", True), ("kernel_requests", "karn", True)]
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


async def test_what_runs_ask_the_forge_for_is_counted_once_and_survives(tmp_path: Path) -> None:
    bus = OneShotBus(
        KernelRequest(request_id="r:line:BP009", blueprint_id="BP009"),
        KernelRequest(request_id="r:line:BP009", blueprint_id="BP009"),
        KernelRequest(request_id="s:line:BP009", blueprint_id="BP009"),
        KernelRequest(request_id="r:line:BP045", blueprint_id="BP045"),
        KernelRequest(request_id="r:line:BP999", blueprint_id="BP999"),
        KernelRequest(request_id="r:line:"),
        topic="kernel_requests",
    )
    task = await running(KarnService(tmp_path, metrics=Registry(), bus=bus))
    await asyncio.wait_for(bus.done.wait(), 5)
    await stop(task)
    again = KarnService(tmp_path, metrics=Registry())
    task = await running(again)
    tallies = await again.tallies()
    assert tallies is not None
    assert {name: tally.requests for name, tally in tallies.items()} == {"BP009": 2}
    await stop(task)


async def test_a_query_on_the_bus_is_answered_with_descriptors(tmp_path: Path) -> None:
    line = SiteInterfaceMessage(kind="spatial", shape=[8, 1, 40])
    adversarial = BlueprintTier.BLUEPRINT_TIER_ADVERSARIAL
    bus = OneShotBus(
        BlueprintQuery(query_id="q1", interface=line, risk_ceiling=0.4, parameter_budget=100),
        BlueprintQuery(query_id="q2", tiers=[adversarial]),
        BlueprintQuery(query_id="q3", interface=SiteInterfaceMessage(kind="round", shape=[3])),
        topic="kernel_requests",
    )
    task = await running(KarnService(tmp_path, metrics=Registry(), bus=bus))
    await asyncio.wait_for(bus.done.wait(), 5)
    await stop(task)
    assert {query for query, _ in bus.published} == {"q1"}
    described = [message for _, message in bus.published]
    assert all(isinstance(message, BlueprintDescriptor) for message in described)
    found = {message.blueprint_id: message for message in described}  # type: ignore[attr-defined]
    assert {"BP001", "BP002", "BP012"} <= set(found)
    assert not {"BP009", "BP023"} & set(found)
    assert found["BP002"].parameters[0].preset == 0.0
    assert found["BP002"].approval.note == "any run, once certified"


class Shelf:
    """Three certificates for the line; notes how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken = False

    def __call__(self, interface: str) -> Iterator[dict[str, object]]:
        self.asked.append(interface)
        if self.broken:
            raise OSError("the disk is away")
        for passed, blueprint, training_ms in (
            (True, "BP009", 1.5),
            (True, "BP009", 9.0),  # an older one
            (False, "BP021", 0.1),
        ):
            yield {
                "passed": passed, "device": "cpu", "blueprint_id": blueprint,
                "parameter_count": 10, "forward_flops": 20, "training_ms": training_ms,
            }  # fmt: skip


async def test_a_latency_budget_is_judged_by_the_newest_certificate(tmp_path: Path) -> None:
    shelf = Shelf()
    service = KarnService(tmp_path, metrics=Registry(), certificates=shelf)
    task = await running(service)
    line = Interface("spatial", (8, 1, 40))
    for budget, expected in ((2.0, ["BP009"]), (1.0, [])):
        selection = await service.select(Query(interface=line, latency_budget_ms=budget))
        assert [record.id for record in selection.records] == expected
    assert shelf.asked == ["spatial-8x1x40-float32-contiguous"] * 2
    await service.select(Query(interface=line))
    assert len(shelf.asked) == 2, "who has no budget asks for no costs"
    shelf.broken = True
    selection = await service.select(Query(interface=line, parameter_budget=80))
    assert "BP002" in {record.id for record in selection.records}
    await stop(task)
