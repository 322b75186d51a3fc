"""The coach over a real Redis: each report's effect exactly once, whatever Redis does."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from google.protobuf.message import Message

from esper_async.leyline import EventEnvelope, PolicyUpdate
from esper_async.leyline.signing import Signer
from esper_async.oona import Bus, BusSettings, EmbeddedServer, Spool
from esper_async.oona.connection import connect
from esper_async.oona.dead_letters import DeadLetters
from esper_async.runtime.clock import FakeClock
from esper_async.runtime.metrics import Registry
from esper_async.simic.service import ANNOUNCE_EVERY_S, SimicService
from esper_async.tamiyo.published import SHIPPED
from tests.simic.experiences import decision, report
from tests.simic.test_registry import FEATURES, policy, record, registry

KEY = bytes(range(32))
FAST = BusSettings(
    command_timeout_s=2.0,
    retry_base_s=0.01,
    retry_cap_s=0.02,
    drain_s=2.0,
    spool_poll_s=0.02,
    reconnect_cap_s=0.1,
    publish_open_s=0.1,
    consume_open_s=0.1,
)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is awaited is in a thread
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(service: SimicService) -> AsyncIterator[None]:
    ready = asyncio.Event()
    task = asyncio.create_task(service.run(ready.set))
    await asyncio.wait_for(ready.wait(), 10)
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "redis")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def spool(tmp_path: Path):
    opened = Spool(tmp_path / "spool")
    yield opened
    opened.close()


def bus_to(server: EmbeddedServer, **options: object) -> Bus:
    return Bus(server.url, signer=Signer(KEY), source="test", settings=FAST, **options)  # type: ignore[arg-type]


async def test_reports_and_decisions_arrive_and_are_joined(
    server: EmbeddedServer, spool: Spool, tmp_path: Path
):
    registry = Registry()
    async with bus_to(server, spool=spool) as bus:
        service = SimicService(tmp_path, bus, registry=registry)
        async with running(service):
            messages = [report("a", n) for n in range(5)] + [decision("a", n) for n in range(6)]
            random.Random(3).shuffle(messages)
            for message in messages:
                await bus.publish(message)
            await until(lambda: service.detail().get("decisions") == 6)
            await until(lambda: service.detail().get("reports") == 5)
            assert service.detail()["learner"] == "on demand"
            assert service.store is not None
            trajectory = service.store.trajectory("a")
            assert trajectory.whole
            assert [len(step.reports) for step in trajectory.steps] == [1, 1, 1, 1, 1, 0]
            exposed = registry.exposition()[0].decode()
            assert 'esper_simic_replay_size{kind="reports"} 5.0' in exposed


async def test_redis_killed_and_restarted_under_it_changes_no_count(
    server: EmbeddedServer, spool: Spool, tmp_path: Path
):
    async with bus_to(server, spool=spool) as bus:
        service = SimicService(tmp_path, bus)
        async with running(service):
            for number in range(60):
                await bus.publish(report("a", number))
                if number == 30:
                    await server.stop(0.0)
                if number == 40:
                    await server.start()
            await until(lambda: service.detail().get("reports") == 60)
            assert service.store is not None
            stored = [message.report_id for _, message in service.store.reports("a")]
            assert sorted(stored) == sorted(f"a-r{number}" for number in range(60))


async def test_what_came_before_it_was_restarted_is_not_counted_twice(
    server: EmbeddedServer, spool: Spool, tmp_path: Path
):
    async with bus_to(server, spool=spool) as bus:
        for round_number in range(2):
            service = SimicService(tmp_path, bus)
            async with running(service):
                await bus.publish(report("a", round_number))
                await bus.publish(report("a", 0))
                await until(
                    lambda wanted=round_number + 1, live=service: (
                        live.detail().get("reports") == wanted
                    )
                )
                assert service.detail()["rejected"] == 0


async def test_reports_wait_for_a_disk_that_is_away_and_are_stored_when_it_is_back(
    server: EmbeddedServer, spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = 0

    def refuses(*_: object) -> None:
        nonlocal asked
        asked += 1
        raise sqlite3.OperationalError("disk I/O error")

    clock = FakeClock()
    async with bus_to(server, spool=spool) as bus:
        service = SimicService(tmp_path, bus, clock=clock)
        async with running(service):
            assert service.store is not None
            with monkeypatch.context() as patched:
                patched.setattr(service.store, "take_many", refuses)
                for number in range(5):
                    await bus.publish(report("a", number))
                await until(lambda: service.breakers.states() == {"simic.store": "open"})
                for probes in range(1, 5):
                    clock.advance(30.0)
                    await until(lambda probes=probes: asked >= 3 + probes)
            clock.advance(30.0)
            await until(lambda: len(list(service.store.reports("a"))) == 5)
        client = connect(server.url, timeout_s=5.0)
        assert await DeadLetters(client).count() == 0
        await client.aclose()


async def test_a_malformed_message_is_rejected_and_the_one_beside_it_stored(
    server: EmbeddedServer, tmp_path: Path
):
    async with bus_to(server) as bus:
        service = SimicService(tmp_path, bus)
        async with running(service):
            assert service.store is not None
            broken = report("a", 1, command_id="")
            whole = report("a", 2)
            events = [EventEnvelope(event_id=name) for name in ("e1", "e2")]
            await service._take(service.store, [(broken, events[0]), (whole, events[1])])
            expected = {"rejected": 1, "reports": 1}
            await until(lambda: expected.items() <= service.detail().items())


def test_before_it_runs_it_says_that_there_is_no_learner(tmp_path: Path):
    service = SimicService(tmp_path, None)  # type: ignore[arg-type]
    assert service.detail() == {"learner": "on demand"}


async def test_what_the_registry_lets_decide_is_told_once_whoever_changed_it(
    server: EmbeddedServer, spool: Spool, tmp_path: Path
):
    told: list[PolicyUpdate] = []

    async def hear(message: Message, _: EventEnvelope) -> None:
        assert isinstance(message, PolicyUpdate)
        if message.update_id not in [each.update_id for each in told]:
            told.append(message)

    policies = registry(tmp_path)
    metrics = Registry()
    async with bus_to(server, spool=spool) as bus, asyncio.TaskGroup() as group:
        hearing = group.create_task(
            bus.consume("policy_updates", "tamiyo", hear, consumer="tamiyo")
        )
        clock = FakeClock()
        service = SimicService(tmp_path, bus, policies=policies, registry=metrics, clock=clock)
        async with running(service):
            one = policies.submit(policy(1), record(SHIPPED))
            await until(lambda: tick(clock) and len(told) == 1)
            two = policies.submit(policy(2), record(one.id))
            await until(lambda: tick(clock) and len(told) == 2)
            registry(tmp_path).activate(one.id)
            await until(lambda: tick(clock) and len(told) == 3)
        async with running(service):  # it tells again what is known already
            await until(lambda: tick(clock) and published(metrics) == 4)
        hearing.cancel()
    assert [(each.policy_version, each.rollback) for each in told] == [
        (one.id, False),
        (two.id, False),
        (one.id, True),
    ]
    first = told[0]
    assert first.artifact_sha256.hex() == one.sha256
    assert (first.schema_digest, first.parent_version, first.policy) == (FEATURES, SHIPPED, "awr")
    assert first.validation_id == one.records[-1]


async def test_a_registry_that_cannot_be_believed_is_told_of_once_it_is_mended(
    server: EmbeddedServer, spool: Spool, tmp_path: Path
):
    policies = registry(tmp_path)
    policies.submit(policy(1), record(SHIPPED))
    path = tmp_path / "registry" / "registry.json"
    whole = path.read_text()
    path.write_text(whole.replace("active", "aktive", 1))
    clock, metrics = FakeClock(), Registry()
    async with bus_to(server, spool=spool) as bus:
        service = SimicService(tmp_path, bus, policies=policies, registry=metrics, clock=clock)
        async with running(service):
            for _ in range(3):
                tick(clock)
                await asyncio.sleep(0)
            assert published(metrics) == 0
            path.write_text(whole)
            await until(lambda: tick(clock) and published(metrics) == 1)


def tick(clock: FakeClock) -> bool:
    clock.advance(ANNOUNCE_EVERY_S)
    return True


def published(metrics: Registry) -> float:
    lines = metrics.exposition()[0].decode().splitlines()
    found = [line for line in lines if line.startswith("esper_simic_policy_published_total ")]
    return float(found[0].split()[1]) if found else 0.0
