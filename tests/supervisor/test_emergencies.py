"""Emergencies at the supervisor: what each level does to real children, and that once."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from esper_async.leyline import EmergencySignal, EventEnvelope
from esper_async.leyline.envelope import event_id_of
from esper_async.leyline.registry import spec_of
from esper_async.oona.errors import BusUnavailable
from esper_async.tolaria.control import Steer
from esper_async.tolaria.emergency import Level
from esper_async.tolaria.emergency_signal import issuer, signal_of
from esper_async.tolaria.requests import accepted
from esper_async.tolaria.runs import RunConflictError
from esper_async.tolaria.service import TolariaService
from tests.supervisor.test_tolaria_service import config, requests_of, running, service_in, until

WHY = "isolation violated"


class Bus:
    """Delivers what a test puts on it, and keeps what is published."""

    def __init__(self) -> None:
        self.published: list[Message] = []
        self.away = False
        self._waiting: asyncio.Queue[tuple[EmergencySignal, str]] = asyncio.Queue()
        self._handled = asyncio.Event()

    async def deliver(self, message: EmergencySignal, event_id: str = "e-1") -> None:
        """Hand a message to the service and wait until it has been handled."""
        self._handled.clear()
        self._waiting.put_nowait((message, event_id))
        await self._handled.wait()

    async def publish(self, message: Message) -> str:
        if self.away:
            raise BusUnavailable("there is no bus")
        self.published.append(message)
        return "e"

    async def consume(self, topic: str, group: str, handler: Any, **_: Any) -> None:
        assert (topic, group) == ("control", "tolaria")
        while True:
            message, event_id = await self._waiting.get()
            await handler(message, EventEnvelope(event_id=event_id))
            self._handled.set()


def told(level: Level, run: str = "", by: str = "nissa") -> EmergencySignal:
    return signal_of(run, level, WHY, issued_by=by, issued_at=1.0)


async def started(service: TolariaService, act: str = "until_stopped") -> Any:
    run = service.submit(config(act))
    await until(lambda: service.progress(run.id).get("step"))
    return run


async def test_a_critical_emergency_freezes_by_the_flag_until_someone_lifts_it(
    tmp_path: Path,
) -> None:
    bus = Bus()
    async with running(service_in(tmp_path, bus=bus)) as service:
        run = await started(service)
        await bus.deliver(told("CRITICAL"))
        assert run.state == "paused"
        await until(lambda: service.progress(run.id)["frozen"])
        (steer,) = accepted(run.folder)
        assert (steer.level, steer.reason) == ("CRITICAL", f"{WHY} (told by nissa)")
        service.resume(run.id)
        assert run.state == "running"
        await until(lambda: not service.progress(run.id)["frozen"])


@pytest.mark.parametrize("level", ["MINOR", "MAJOR", "SEVERE"])
async def test_a_lesser_one_is_handed_to_the_run_durably_and_freezes_nothing(
    level: Level, tmp_path: Path
) -> None:
    bus = Bus()
    async with running(service_in(tmp_path, bus=bus)) as service:
        run = await started(service)
        await bus.deliver(told(level, run.id))
        await until(lambda: "emergency" in requests_of(run))
        assert run.state == "running"
        assert not service.progress(run.id)["frozen"]
        why = f"{WHY} (told by nissa)"
        assert accepted(run.folder) == [Steer("emergency", request=1, level=level, reason=why)]


async def test_an_emergency_of_every_run_holds_those_that_wait_as_well(tmp_path: Path) -> None:
    bus = Bus()
    async with running(service_in(tmp_path, bus=bus, concurrent_runs=2)) as service:
        runs = [await started(service) for _ in range(2)]
        waiting = service.submit(config("complete"))
        await bus.deliver(told("CRITICAL"))
        await until(lambda: all(service.progress(run.id)["frozen"] for run in runs))
        assert [run.state for run in (*runs, waiting)] == ["paused"] * 3


async def test_a_lesser_emergency_of_every_run_passes_over_those_that_wait(tmp_path: Path) -> None:
    bus = Bus()
    async with running(service_in(tmp_path, bus=bus)) as service:
        waiting = service.submit(config("until_stopped"))
        service.pause(waiting.id)
        run = await started(service)
        await bus.deliver(told("SEVERE"))
        assert [steer.level for steer in accepted(run.folder)] == ["SEVERE"]
        assert accepted(waiting.folder) == []


async def test_an_emergency_of_one_run_leaves_the_others_alone(tmp_path: Path) -> None:
    bus = Bus()
    async with running(service_in(tmp_path, bus=bus, concurrent_runs=2)) as service:
        one, other = [await started(service) for _ in range(2)]
        await bus.deliver(told("CRITICAL", one.id))
        await until(lambda: service.progress(one.id)["frozen"])
        assert (one.state, other.state) == ("paused", "running")
        assert not service.progress(other.id)["frozen"]


async def test_what_a_run_has_put_right_itself_is_heard_and_not_answered_again(
    tmp_path: Path,
) -> None:
    bus = Bus()
    async with running(service_in(tmp_path, bus=bus)) as service:
        run = await started(service)
        await bus.deliver(told("CRITICAL", run.id, by=issuer(run.id)))
        await bus.deliver(told("SEVERE", run.id, by=issuer(run.id)), "e-2")
        assert (run.state, accepted(run.folder)) == ("running", [])
        await bus.deliver(told("CRITICAL", run.id, by=issuer("another")), "e-3")
        assert run.state == "paused"


async def test_a_copy_of_an_emergency_freezes_nothing_again_even_after_a_restart(
    tmp_path: Path,
) -> None:
    """Somebody puts the signed message of last week on the stream again."""
    bus = Bus()
    async with running(service_in(tmp_path, bus=bus)):
        await bus.deliver(told("CRITICAL"))
    async with running(service_in(tmp_path, bus=bus)) as service:
        run = await started(service)
        await bus.deliver(told("CRITICAL"))
        assert run.state == "running"
        assert not service.progress(run.id)["frozen"]


async def test_an_operators_emergency_is_answered_at_once_and_told_to_the_bus_for_good(
    tmp_path: Path,
) -> None:
    bus = Bus()
    async with running(service_in(tmp_path, bus=bus)) as service:
        run = await started(service)
        await service.emergency(run.id, "CRITICAL", "smoke")
        assert run.state == "paused"
        await until(lambda: service.progress(run.id)["frozen"])
        (message,) = bus.published
        assert isinstance(message, EmergencySignal)
        assert (message.run_id, message.reason, message.issued_by) == (run.id, "smoke", "operator")
        assert spec_of(message).durable
        service.resume(run.id)
        await bus.deliver(message, event_id_of(message, spec_of(message)))  # its own echo
        assert run.state == "running"


async def test_an_operators_emergency_needs_no_bus(tmp_path: Path) -> None:
    bus = Bus()
    bus.away = True
    async with running(service_in(tmp_path, bus=bus)) as service:
        run = await started(service)
        await service.emergency(run.id, "CRITICAL", "smoke")
        await until(lambda: service.progress(run.id)["frozen"])
        assert run.state == "paused"


async def test_a_run_that_waits_for_its_place_can_be_held_but_not_sent_back(
    tmp_path: Path,
) -> None:
    async with running(service_in(tmp_path)) as service:
        await started(service)
        waiting = service.submit(config("complete"))
        with pytest.raises(RunConflictError, match="no training process yet"):
            await service.emergency(waiting.id, "SEVERE", "smoke")
        assert accepted(waiting.folder) == []
        await service.emergency(waiting.id, "CRITICAL", "smoke")
        assert waiting.state == "paused"
        service.stop(waiting.id)
        with pytest.raises(RunConflictError, match="is stopped and cannot be sent an emergency"):
            await service.emergency(waiting.id, "CRITICAL", "smoke")


async def test_a_frozen_run_whose_process_dies_trains_no_step_until_it_is_resumed(
    tmp_path: Path,
) -> None:
    async with running(service_in(tmp_path)) as service:
        run = await started(service)
        await service.emergency(run.id, "CRITICAL", "smoke")
        os.kill(run.pid, signal.SIGKILL)
        await until(lambda: run.pid is None)
        after = await started(service)  # its place is another's meanwhile
        assert (run.state, (run.folder / "lives").read_text()) == ("paused", "1")
        service.stop(after.id)
        service.resume(run.id)
        await until(lambda: service.progress(run.id).get("step"))
        assert (run.state, (run.folder / "lives").read_text()) == ("running", "2")
        assert not service.progress(run.id)["frozen"]


async def test_a_run_whose_service_is_down_is_sent_no_emergency(tmp_path: Path) -> None:
    service = service_in(tmp_path)
    service.store.load()
    run = service.submit(config("complete"))
    with pytest.raises(RunConflictError, match="tolaria is down"):
        await service.emergency(run.id, "CRITICAL", "smoke")
