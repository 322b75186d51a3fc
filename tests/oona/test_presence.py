"""Who waits for a server of this process is told when it is back, and does not ask meanwhile."""

import asyncio
import signal
from dataclasses import replace
from pathlib import Path

from esper_async.oona import Bus
from esper_async.oona.connection import ReconnectGate
from esper_async.oona.presence import Presence
from esper_async.testing.redis import running_redis
from tests.oona.conftest import FAST, Inbox, alert, make_bus, until
from tests.oona.test_bus import consuming

_TOLD_ONLY = replace(FAST, reconnect_cap_s=3_600.0)


def gate_of(presence: Presence, pauses: list[float], cap_s: float = 3_600.0) -> ReconnectGate:
    def shortest(low: float, high: float) -> float:
        pauses.append(high)
        return low

    return ReconnectGate("test", cap_s=cap_s, presence=presence, uniform=shortest)


async def turns(count: int = 20) -> None:
    """Let the loop turn: what can go on goes on."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_it_waits_until_the_server_is_back_and_then_for_its_jitter() -> None:
    presence, pauses = Presence(), list[float]()
    presence.gone()
    pausing = asyncio.create_task(gate_of(presence, pauses).pause(ConnectionError()))
    await turns()
    assert not pausing.done() and not pauses
    presence.back()
    await pausing
    assert pauses == [0.05]


async def test_a_server_that_runs_is_no_reason_to_pause_less() -> None:
    presence, pauses = Presence(), list[float]()
    gate = gate_of(presence, pauses)
    for _ in range(4):
        await gate.pause(ConnectionError())
    assert pauses == [0.05, 0.1, 0.2, 0.4]


async def test_nobody_waits_longer_than_the_cap_to_be_told() -> None:
    presence, pauses = Presence(), list[float]()
    presence.gone()
    await gate_of(presence, pauses, cap_s=0.001).pause(ConnectionError())
    assert not pauses


async def test_a_consumer_asks_a_server_that_is_gone_only_once(tmp_path: Path) -> None:
    """More would open its breaker, which then keeps it away from a server that is long back."""
    presence = Presence()
    async with running_redis(tmp_path / "redis") as server:
        bus = make_bus(server, settings=_TOLD_ONLY, presence=presence)
        inbox = Inbox()
        async with bus, consuming(bus, "alerts", "nissa", inbox):
            await bus.publish(alert(1))
            await inbox.has(1)
            presence.gone()
            server.signal(signal.SIGKILL)
            await server.wait()
            await until(lambda: reconnects(bus) == 1)
            await server.start()
            presence.back()
            async with make_bus(server) as other:
                await other.publish(alert(2))
            await inbox.has(2)
            assert reconnects(bus) == 1


def reconnects(bus: Bus) -> float:
    return dict(bus.metrics.reconnects.values()).get((("role", "consumer"),), 0.0)
