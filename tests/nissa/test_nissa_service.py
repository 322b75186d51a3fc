"""Nissa as a service: over a real bus and listener, with the bus away, and its end."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from esper_async.karn.service import KarnService
from esper_async.leyline import Alert, AlertState, TelemetryLevel, TelemetryPacket
from esper_async.leyline.signing import Signer
from esper_async.nissa.event_store import Event
from esper_async.nissa.service import NissaOptions, NissaParts, NissaService
from esper_async.oona import Bus, BusUnavailable
from esper_async.runtime.clock import Clock, FakeClock
from esper_async.runtime.metrics import Registry
from esper_async.supervisor.http import HttpListener
from esper_async.tamiyo.service import TamiyoService
from esper_async.testing.redis import running_redis
from esper_async.tolaria.service import TolariaService
from esper_async.urza.library import Library
from tests.nissa import story
from tests.nissa.conftest import TOKEN, NoLetters
from tests.oona.conftest import until

OPTIONS = NissaOptions(flush_every_s=0.05, status_every_s=0.05, alert_every_s=0.05)


class NoBus:
    """A bus that is away."""

    async def consume(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("oona is not ready")

    async def publish(self, _: Any) -> None:
        raise BusUnavailable("oona is not ready")


@dataclass
class Running:
    """A running Nissa and what it stands on."""

    nissa: NissaService
    tamiyo: TamiyoService
    bus: Any
    url: str
    http: aiohttp.ClientSession
    system: dict[str, Any]

    async def get(self, path: str) -> Any:
        async with self.http.get(self.url + path) as response:
            return response.status, await response.json()

    async def until(self, path: str, holds: Callable[[Any], bool]) -> Any:
        """Ask until the answer is as wanted."""
        async with asyncio.timeout(10):
            while True:
                _, answer = await self.get(path)
                if holds(answer):
                    return answer
                await asyncio.sleep(0.02)


@asynccontextmanager
async def running(
    state_dir: Path, *, with_bus: bool, clock: Clock | None = None
) -> AsyncIterator[Running]:
    async with AsyncExitStack() as stack:
        bus: Any = NoBus()
        if with_bus:
            server = await stack.enter_async_context(running_redis(state_dir / "redis"))
            signer = Signer(bytes(range(32)))
            bus = await stack.enter_async_context(Bus(server.url, signer=signer, source="test"))
        listener = HttpListener("127.0.0.1", 0)
        system: dict[str, Any] = {"status": "ready", "services": {}}
        tamiyo = TamiyoService(state_dir, bus)
        parts = NissaParts(
            hub=tamiyo.hub, runs=TolariaService(state_dir, lambda: ""),
            blueprints=KarnService(state_dir, metrics=Registry()),
            kernels=Library(state_dir / "urza"), policies=None, system=lambda: system, bus=bus,
            dead_letters=NoLetters, mount=listener.mounted,
        )  # fmt: skip
        nissa = NissaService(
            state_dir, parts, token=TOKEN, registry=Registry(), options=OPTIONS, clock=clock
        )
        http = await stack.enter_async_context(aiohttp.ClientSession())
        services: list[Any] = [listener, nissa, *([tamiyo] if with_bus else [])]
        async with asyncio.TaskGroup() as group:
            tasks = []
            for service in services:
                up = asyncio.Event()
                tasks.append(group.create_task(service.run(up.set)))
                await up.wait()
            yield Running(nissa, tamiyo, bus, listener.url.rstrip("/"), http, system)
            for task in reversed(tasks):
                task.cancel()
                await asyncio.wait([task])


def packet(number: int, **event: Any) -> TelemetryPacket:
    made = TelemetryPacket(version=1, packet_id=f"p{number}", source="tolaria", run_id="r1")
    made.points.add(name="tolaria.training.loss", value=0.25)
    made.events.add(**event)
    return made


async def test_telemetry_and_run_records_arrive_over_the_bus(tmp_path: Path) -> None:
    async with running(tmp_path, with_bus=True) as here:
        await here.bus.publish(packet(1, name="run.note", message="all quiet", created_at=1.0))
        for number, record in enumerate(story.numbered()[:30]):
            fields = {"record": json.dumps(record)}
            await here.bus.publish(packet(10 + number, name="run.record", fields=fields))
        run = await here.until(f"/api/runs/{story.RUN}", lambda run: run.get("epoch") == 8)
        assert run["state"] == "running"
        await here.until("/api/events?q=quiet", lambda found: len(found) == 1)
        await here.until("/api/events?q=germinate", lambda found: found == [])
        async with here.http.get(f"{here.url}/metrics") as response:
            assert 'esper_tolaria_training_loss{run="r1"} 0.25' in await response.text()


async def test_events_are_stored_within_seconds_of_the_disk_taking_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The breaker's usual half a minute is for others' sake; a disk does not mind being asked."""
    clock = FakeClock()
    async with running(tmp_path, with_bus=False, clock=clock) as here:
        events, breaker = here.nissa.context.events, here.nissa.breakers.get("nissa.events")

        def full() -> int:
            raise sqlite3.OperationalError("database or disk is full")

        def after(step_s: float, holds: Callable[[], bool]) -> bool:
            clock.advance(step_s)
            return holds()

        with monkeypatch.context() as filled:
            filled.setattr(events, "flush", full)
            events.add(Event(uid="e1", time=1.0, level="error", source="test", name="told"))
            await until(lambda: after(OPTIONS.flush_every_s, lambda: breaker.state == "open"))
        left_s = breaker.retry_after_s
        assert left_s <= 2.0
        clock.advance(left_s)
        await until(lambda: after(OPTIONS.flush_every_s, lambda: events.waiting == 0))
        assert breaker.state == "closed"


async def test_a_record_that_is_no_json_is_counted_and_the_others_go_on(tmp_path: Path) -> None:
    async with running(tmp_path, with_bus=True) as here:
        await here.bus.publish(packet(1, name="run.record", fields={"record": "{"}))
        started = json.dumps(story.numbered()[0])
        await here.bus.publish(packet(2, name="run.record", fields={"record": started}))
        await here.until("/api/runs", lambda runs: len(runs) == 1)
        assert here.tamiyo.detail()["malformed_records"] == 1


async def test_a_record_with_a_number_that_is_none_is_counted_and_ends_nobody(
    tmp_path: Path,
) -> None:
    started = json.dumps(story.numbered()[0])
    async with running(tmp_path, with_bus=True) as here:
        socket = await here.http.ws_connect(f"{here.url}/ws/stream")
        for number, odd in enumerate(("NaN", "-Infinity", "1e999")):
            place = '"seq": 1, "boundary": 0, "epoch": 0, "step": 0'
            text = f'{{"run": "r1", "kind": "paused", {place}, "time": {odd}}}'
            await here.bus.publish(packet(number, name="run.record", fields={"record": text}))
        await here.bus.publish(packet(9, name="run.record", fields={"record": started}))
        await here.until("/api/runs", lambda runs: len(runs) == 1)
        assert here.tamiyo.detail()["malformed_records"] == 3
        assert (await socket.receive_json(timeout=10))["type"] == "snapshot"


async def test_a_run_that_tells_what_no_engine_does_is_left_out_and_others_are_told(
    tmp_path: Path,
) -> None:
    place = {"time": 1e9, "boundary": 1, "epoch": 1, "step": 1, "seq": 1}
    odd = {"kind": "decision", "command": {"id": "c1", "operation": 5}, "reason": "none"}
    async with running(tmp_path, with_bus=False) as here:
        socket = await here.http.ws_connect(f"{here.url}/ws/stream")
        with capture_logs() as logs:
            await here.tamiyo.hub.accept({**place, **odd, "run": "odd"})
            await until(lambda: "run_cannot_be_told" in {each["event"] for each in logs})
        whole = {"kind": "paused", "run": "whole"}
        await here.tamiyo.hub.accept({**place, **whole})
        async with asyncio.timeout(10):
            while (await socket.receive_json()).get("id") != "whole":
                pass


async def test_with_the_bus_away_it_serves_and_says_so(tmp_path: Path) -> None:
    async with running(tmp_path, with_bus=False) as here:
        oona = {"state": "backing_off", "since": 1.0, "restarts": 1, "error": "no redis"}
        here.system["services"]["oona"] = {**oona, "breakers": {"oona.publish": "open"}}
        await here.until(
            "/api/alerts", lambda alerts: alerts[:1] and alerts[0]["state"] == "firing"
        )
        events = await here.until("/api/events?level=error", lambda found: len(found) >= 2)
        assert {event["name"] for event in events} >= {"service.backing_off", "alert.firing"}


async def test_what_changed_the_network_becomes_events_once(tmp_path: Path) -> None:
    async with running(tmp_path, with_bus=False) as here:
        run_dir = tmp_path / "runs" / story.RUN
        story.write(run_dir / "journal.jsonl")
        # the story is old: only a store that keeps long takes its events
        here.nissa.teller._retention_s = 1e12
        await here.tamiyo.hub.rebuild()
        events = await here.until("/api/events?source=tolaria", lambda found: len(found) >= 8)
        names = [event["name"] for event in events]
        assert names.count("run.seed_fossilized") == 1
        assert names.count("run.seed_culled") == 1
        assert names.count("run.decision") == 2
        assert names[-1] == "run.started"


async def test_a_refused_command_becomes_a_warning_with_its_reason(tmp_path: Path) -> None:
    async with running(tmp_path, with_bus=False) as here:
        here.nissa.teller._retention_s = 1e12
        place = {"time": 1e9, "run": "r-1", "boundary": 3, "epoch": 3, "step": 12}
        reason = "no rollback to boundary 9: the run has only come to boundary 3"
        refused = {"seq": 1, "kind": "command_refused", **place, "reason": reason, "request": 1}
        await here.tamiyo.hub.accept(refused)
        (event,) = await here.until("/api/events?level=warning", lambda found: len(found) == 1)
        assert (event["name"], event["run"]) == ("run.command_refused", "r-1")
        assert reason in event["message"]


async def test_its_end_closes_streams_stores_events_and_leaves_503(tmp_path: Path) -> None:
    from esper_async.nissa.event_store import Event, EventStore, Query

    async with running(tmp_path, with_bus=False) as here:
        socket = await here.http.ws_connect(f"{here.url}/ws/stream")
        assert (await socket.receive_json())["type"] == "snapshot"
        here.nissa.teller.note(Event("e1", 1.0, "info", "test", "test.last", "the last word"))
    message = await socket.receive()
    while message.type is aiohttp.WSMsgType.TEXT:
        message = await socket.receive()
    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
    store = EventStore(tmp_path / "nissa" / "events.sqlite")
    store.open()
    assert [event["message"] for event in store.search(Query("last"))] == ["the last word"]
    store.close()


async def test_it_can_run_again_after_its_end(tmp_path: Path) -> None:
    async with running(tmp_path, with_bus=False) as here:
        again = here.nissa
    ready = asyncio.Event()
    task = asyncio.create_task(again.run(ready.set))
    await ready.wait()
    assert again.context.events.count() >= 0
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_part_raises_an_alert_over_the_bus_and_takes_it_back(tmp_path: Path) -> None:
    told = Alert(
        version=1, alert_id="stuck/r1", name="controller_stuck", summary="It does not answer.",
        level=TelemetryLevel.TELEMETRY_LEVEL_ERROR, state=AlertState.ALERT_STATE_FIRING,
        labels={"run": "r1"}, started_at=1.0, routes=["pager"],
    )  # fmt: skip
    async with running(tmp_path, with_bus=True) as here:
        await here.bus.publish(told)
        [alert] = await here.until("/api/alerts", lambda alerts: len(alerts) == 1)
        assert (alert["name"], alert["level"], alert["state"]) == (
            "controller_stuck", "error", "firing",
        )  # fmt: skip
        assert (alert["labels"]["run"], alert["routes"]) == ("r1", ["pager"])
        told.state = AlertState.ALERT_STATE_RESOLVED
        await here.bus.publish(told)
        await here.until("/api/alerts", lambda alerts: alerts[0]["state"] == "resolved")


async def test_a_run_whose_controller_was_replaced_raises_an_alert_until_it_ends(
    tmp_path: Path,
) -> None:
    place = {"time": 1e9, "run": "r-1", "boundary": 3, "epoch": 3, "step": 12}
    records = [
        {"kind": "run_started", "name": "mine", "policy": "gnn", "epochs": 9},
        {"kind": "controller_replaced", "policy": "gnn", "by": "static", "reason": "it hung"},
    ]
    async with running(tmp_path, with_bus=True) as here:
        for seq, record in enumerate(records, 1):
            await here.tamiyo.hub.accept({**place, "seq": seq, **record})
        [alert] = await here.until("/api/alerts", lambda alerts: len(alerts) == 1)
        assert (alert["name"], alert["labels"]["run"]) == ("controller_replaced", "r-1")
        assert alert["summary"].endswith("its policy was replaced, it hung.")
        await here.tamiyo.hub.accept(
            {**place, "seq": 3, "kind": "run_ended", "state": "stopped", "error": None}
        )
        await here.until("/api/alerts", lambda alerts: alerts[0]["state"] == "resolved")


async def test_a_run_whose_process_writes_a_log_is_found_in_the_events(tmp_path: Path) -> None:
    async with running(tmp_path, with_bus=False) as here:
        folder = tmp_path / "runs" / "r-9"
        folder.mkdir(parents=True)
        entry = {"event": "loader_slow", "level": "warning", "seconds": 3}
        (folder / "log.jsonl").write_text(json.dumps(entry) + "\n")
        [event] = await here.until("/api/events?q=loader", lambda found: len(found) == 1)
        assert (event["run"], event["level"], event["source"]) == ("r-9", "warning", "training")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ('{"event": "step", "loss": NaN, "rate": -Infinity}', "step"),
        (r'{"event": "half a pair \ud800 alone", "file": "\udcff"}', "alone"),
        (r'{"event": "step", "level": "\ud800", "timestamp": "\ud800"}', "step"),
        ('{"event": "step", "count": ' + "9" * 5_000 + "}", "9999"),
    ],
    ids=["not finite", "half a surrogate", "odd level", "a huge number"],
)
async def test_no_line_of_a_training_process_can_end_the_service(
    tmp_path: Path, entry: str, words: str
) -> None:
    async with running(tmp_path, with_bus=False) as here:
        socket = await here.http.ws_connect(f"{here.url}/ws/stream")
        folder = tmp_path / "runs" / "r-9"
        folder.mkdir(parents=True)
        (folder / "log.jsonl").write_text(f'{entry}\n{{"event": "afterwards"}}\n')
        await here.until("/api/events?q=afterwards", lambda found: len(found) == 1)
        await here.until(f"/api/events?q={words}", lambda found: len(found) == 1)
        told = [await socket.receive_json(timeout=10) for _ in range(2)]
        assert told[0]["type"] == "snapshot"
