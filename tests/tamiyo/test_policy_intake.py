"""Updates over a real bus: staged once whatever dies, followed by the hub, told as an alert."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from esper_async.leyline import Alert, AlertState, EventEnvelope, PolicyUpdate
from esper_async.leyline.signing import Signer
from esper_async.oona import Bus, BusSettings, EmbeddedServer, Spool
from esper_async.runtime.journal import Journal
from esper_async.runtime.metrics import Registry
from esper_async.simic.announcing import updates_of
from esper_async.tamiyo.desk_book import Rules
from esper_async.tamiyo.policy_desk import PolicyDesk
from esper_async.tamiyo.published import SHIPPED
from esper_async.tamiyo.service import TamiyoService
from tests.simic.test_registry import FEATURES, KEY, OTHER, policy, record, registry
from tests.tolaria.updated import conducted

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


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "redis")
    await server.start()
    yield server
    await server.stop()


class House:
    """A registry, a run's folder, and the controller's service on a bus."""

    def __init__(self, folder: Path, server: EmbeddedServer) -> None:
        self.folder = folder
        self.server = server
        self.registry = registry(folder)
        self.metrics = Registry()
        self.withdrawn: list[str] = []

    def bus(self, key: bytes = KEY, **options: Any) -> Bus:
        return Bus(self.server.url, signer=Signer(key), source="test", settings=FAST, **options)

    @asynccontextmanager
    async def serving(self, bus: Bus) -> AsyncIterator[PolicyDesk]:
        desk = PolicyDesk(
            self.folder / "desk.json", self.folder / "registry", Signer(KEY), rules=Rules()
        )

        def withdraw(policy_id: str, features: str, *, reason: str) -> None:
            self.withdrawn.append(policy_id)
            self.registry.withdraw(policy_id, features, reason=reason)

        service = TamiyoService(
            self.folder, bus, desk=desk, withdraw=withdraw, registry=self.metrics
        )
        ready = asyncio.Event()
        task = asyncio.create_task(service.run(ready.set))
        await asyncio.wait_for(ready.wait(), 10)
        try:
            yield desk
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    def publish(self, number: int) -> PolicyUpdate:
        active = self.registry.book().active_of(FEATURES)
        self.registry.submit(policy(number), record(active))
        (update,) = updates_of(self.registry.book())
        return update

    def run_tells(self, *records: dict[str, Any], name: str = "r1") -> None:
        """Let a run write records into its journal; the bus need not have heard them."""
        folder = self.folder / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text(json.dumps({"created_at": 1.0}))
        journal = Journal.open(folder / "journal.jsonl")
        place = {"time": 1.0, "run": name, "boundary": 3, "epoch": 3, "step": 12}
        started = {"kind": "run_started", "name": name, "policy": "awr", "epochs": 9}
        for each in ([started] if journal.last_seq == 0 else []) + list(records):
            journal.append({**place, **each})
        journal.close()

    def counted(self, result: str) -> float:
        start = f'esper_tamiyo_policy_updates_total{{result="{result}"}} '
        lines = self.metrics.exposition()[0].decode().splitlines()
        return sum(float(line.removeprefix(start)) for line in lines if line.startswith(start))


def shadowed(update: PolicyUpdate) -> dict[str, Any]:
    done = conducted(20).to_json()
    return {
        "kind": "policy_shadowed",
        "version": update.policy_version,
        "features": FEATURES,
        "update": update.update_id,
        "tally": {"new": done, "active": done, "agreed": 20},
    }


def watched(version: str, *regressions: str) -> dict[str, Any]:
    return {
        "kind": "policy_watched",
        "version": version,
        "features": FEATURES,
        "regressions": list(regressions),
        "gives_way": bool(regressions),
        "conduct": conducted(10).to_json(),
    }


@pytest.fixture
def spool(tmp_path: Path):
    opened = Spool(tmp_path / "spool")
    yield opened
    opened.close()


@pytest.fixture
def house(server: EmbeddedServer, tmp_path: Path) -> House:
    return House(tmp_path, server)


async def test_an_update_is_staged_decides_after_its_shadow_and_is_rolled_back_with_an_alert(
    house: House, spool: Spool
):
    alerts: list[tuple[str, int]] = []

    async def hear(message: Message, _: EventEnvelope) -> None:
        assert isinstance(message, Alert)
        alerts.append((message.labels["policy"], message.state))

    async with house.bus(spool=spool) as bus, asyncio.TaskGroup() as group:
        hearing = group.create_task(bus.consume("alerts", "nissa", hear, consumer="nissa"))
        async with house.serving(bus) as desk:
            update = house.publish(1)
            await bus.publish(update)
            await until(lambda: house.counted("staged") == 1)
            house.run_tells(shadowed(update))
            await until(lambda: desk.book.active_of(FEATURES) == update.policy_version)
            house.run_tells(watched(update.policy_version, "too slow"))
            await until(lambda: house.withdrawn == [update.policy_version])
            await until(lambda: len(alerts) == 1)
            assert house.registry.book().active_of(FEATURES) == SHIPPED
            assert desk.book.active_of(FEATURES) == SHIPPED
            better = house.publish(2)
            await bus.publish(better)
            house.run_tells(shadowed(better), name="r2")
            await until(lambda: len(alerts) == 2)
        hearing.cancel()
    firing, resolved = AlertState.ALERT_STATE_FIRING, AlertState.ALERT_STATE_RESOLVED
    assert alerts == [(update.policy_version, firing), (update.policy_version, resolved)]


async def test_a_forged_update_reaches_no_desk_and_one_without_a_registry_is_refused(
    house: House, spool: Spool
):
    update = house.publish(1)
    made_up = PolicyUpdate()
    made_up.CopyFrom(update)
    made_up.update_id, made_up.policy_version = "made up", "awr-0123456789ab"
    async with house.bus(spool=spool) as bus, house.serving(bus) as desk:
        async with house.bus(OTHER, spool=Spool(house.folder / "forger")) as forger:
            await forger.publish(update)
            await until(lambda: bus.refusals.get("forged", 0) >= 1)
        await bus.publish(made_up)
        await until(lambda: house.counted("refused") == 1)
        assert desk.book.staged == {}
        assert [event.what for event in desk.book.history] == ["refused"]


async def test_what_happened_while_it_was_away_is_taken_in_when_it_is_back(
    house: House, spool: Spool
):
    update = house.publish(1)
    async with house.bus(spool=spool) as bus:
        await bus.publish(update)
        async with house.serving(bus) as desk:
            await until(lambda: house.counted("staged") == 1)
        house.run_tells(shadowed(update), watched(update.policy_version, "riskier"))
        for _ in range(2):
            async with house.serving(bus) as desk:
                await until(lambda: desk.folded_of("r1") == 3 and not desk.to_withdraw())
                assert desk.book.active_of(FEATURES) == SHIPPED
        assert set(house.withdrawn) == {update.policy_version}
        known = house.registry.book().history
        assert [event.what for event in known] == ["published", "put back"]
        assert [event.what for event in desk.book.history] == [
            "staged", "activated", "rejected", "put back",
        ]  # fmt: skip


async def test_a_disk_that_refuses_lets_the_bus_deliver_again(
    house: House, spool: Spool, monkeypatch: pytest.MonkeyPatch
):
    update = house.publish(1)
    refusals = iter([True, True])

    def write(path: Path, content: bytes) -> None:
        if update.update_id.encode() in content and next(refusals, False):
            raise OSError(os.strerror(28))
        path.write_bytes(content)

    async with house.bus(spool=spool) as bus, house.serving(bus) as desk:
        monkeypatch.setattr("esper_async.tamiyo.policy_desk.write_atomically", write)
        await bus.publish(update)
        await until(lambda: house.counted("staged") == 1)
        assert [event.what for event in desk.book.history] == ["staged"]
