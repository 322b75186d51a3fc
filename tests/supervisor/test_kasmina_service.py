"""Commands that crossed the bus reach the run they name, or are refused and counted."""

import asyncio
from typing import Any

import pytest

from esper_async.kasmina.service import KasminaService
from esper_async.leyline import (
    AdaptationCommand,
    CircuitBreakerState,
    CommandType,
    EventEnvelope,
    SeedOperation,
)
from esper_async.runtime.breakers import Breakers
from esper_async.tolaria.runs import RunConflictError, RunNotFoundError


class Runs:
    """Writes down what it is asked; knows the runs r and, which has ended, e."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def _do(self, deed: str, run_id: str, *further: Any) -> None:
        if run_id == "e":
            raise RunConflictError("run e is completed")
        if run_id != "r":
            raise RunNotFoundError(run_id)
        self.asked.append((deed, run_id, *further))

    def pause(self, run_id: str) -> None:
        self._do("pause", run_id)

    def resume(self, run_id: str) -> None:
        self._do("resume", run_id)

    def rollback(self, run_id: str, to_boundary: int | None = None) -> None:
        self._do("rollback", run_id, to_boundary)

    def cull(self, run_id: str, seed: str) -> None:
        self._do("cull", run_id, seed)


class OneShotBus:
    """Delivers the commands it was given, then waits."""

    def __init__(self, *commands: AdaptationCommand) -> None:
        self.commands = commands
        self.delivered = asyncio.Event()

    async def consume(self, topic: str, group: str, handler: Any, **_: Any) -> None:
        assert (topic, group) == ("commands", "tolaria")
        for command in self.commands:
            await handler(command, EventEnvelope())
        self.delivered.set()
        await asyncio.Event().wait()


def cull(run_id: str = "r") -> AdaptationCommand:
    command = AdaptationCommand(
        command_id="c", run_id=run_id, type=CommandType.COMMAND_TYPE_SEED, seed_id="s-1"
    )
    command.seed.operation = SeedOperation.SEED_OPERATION_CULL
    return command


def pause(*, resume: bool) -> AdaptationCommand:
    command = AdaptationCommand(run_id="r", type=CommandType.COMMAND_TYPE_PAUSE)
    command.pause.resume = resume
    return command


def rollback() -> AdaptationCommand:
    command = AdaptationCommand(run_id="r", type=CommandType.COMMAND_TYPE_ROLLBACK)
    command.rollback.boundary = 4
    return command


def germinate() -> AdaptationCommand:
    command = AdaptationCommand(run_id="r", type=CommandType.COMMAND_TYPE_SEED)
    command.seed.operation = SeedOperation.SEED_OPERATION_GERMINATE
    return command


def breaker(state: str, name: str = "disk") -> AdaptationCommand:
    command = AdaptationCommand(type=CommandType.COMMAND_TYPE_CIRCUIT_BREAKER)
    command.breaker.breaker = name
    command.breaker.state = CircuitBreakerState.Value(f"CIRCUIT_BREAKER_STATE_{state}")
    return command


def disk() -> Breakers:
    breakers = Breakers("test")
    breakers.make("disk")
    return breakers


async def carried(
    *commands: AdaptationCommand, breakers: Breakers | None = None
) -> tuple[list[tuple[Any, ...]], dict[str, object]]:
    runs, bus = Runs(), OneShotBus(*commands)
    get = (breakers or disk()).get
    service = KasminaService(bus, runs, breaker=get)  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        task = asyncio.ensure_future(service.run(lambda: None))
        await bus.delivered.wait()
        task.cancel()
        await asyncio.wait([task])
    return runs.asked, service.detail()


async def test_each_command_reaches_its_run() -> None:
    asked, detail = await carried(cull(), pause(resume=False), pause(resume=True), rollback())
    assert asked == [("cull", "r", "s-1"), ("pause", "r"), ("resume", "r"), ("rollback", "r", 4)]
    assert detail == {"carried": 4, "refused": {}}


async def test_a_breaker_is_isolated_and_restored_by_command() -> None:
    breakers = disk()
    _, detail = await carried(breaker("OPEN"), breakers=breakers)
    assert breakers.get("disk").isolated
    assert detail == {"carried": 1, "refused": {}}
    await carried(breaker("CLOSED"), breakers=breakers)
    assert not breakers.get("disk").isolated
    assert breakers.states() == {"disk": "closed"}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (germinate(), "not_for_an_operator"),
        (AdaptationCommand(type=CommandType.COMMAND_TYPE_NO_OPERATION), "not_for_an_operator"),
        (cull("nobody"), "cannot_be_obeyed"),
        (cull("e"), "cannot_be_obeyed"),
        (breaker("OPEN", "nowhere"), "cannot_be_obeyed"),
        (breaker("HALF_OPEN"), "cannot_be_obeyed"),
    ],
)
async def test_what_cannot_be_carried_is_refused_and_counted(
    command: AdaptationCommand, reason: str
) -> None:
    asked, detail = await carried(command)
    assert asked == []
    assert detail == {"carried": 0, "refused": {reason: 1}}
