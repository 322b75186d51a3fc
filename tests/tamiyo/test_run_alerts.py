"""Alerts about runs: told when they begin, again for those who were away, and at their end."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from esper_async.leyline import Alert, AlertState
from esper_async.oona import BusUnavailable
from esper_async.runtime.clock import FakeClock
from esper_async.tamiyo.hub import Hub
from esper_async.tamiyo.run_alerts import LOOK_EVERY_S, REPEAT_EVERY_S, RunAlerts

FIRING, RESOLVED = AlertState.ALERT_STATE_FIRING, AlertState.ALERT_STATE_RESOLVED


class Bus:
    """Keeps what is published; refuses while it is `away`."""

    def __init__(self) -> None:
        self.away = False
        self.told: list[tuple[str, int]] = []
        self.asked = 0

    async def publish(self, alert: Alert) -> None:
        self.asked += 1
        if self.away:
            raise BusUnavailable("no Redis")
        self.told.append((alert.alert_id, alert.state))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def hub(tmp_path: Path, clock: FakeClock) -> Hub:
    hub = Hub(tmp_path, clock=clock)
    await tell(hub, "run_started", name="r", policy="gnn", epochs=3)
    return hub


async def tell(hub: Hub, kind: str, **more: Any) -> None:
    seq = (await hub.picture("r")).seq + 1 if hub.knows("r") else 1
    place = {"seq": seq, "time": 1.0, "run": "r", "boundary": 0, "epoch": 0, "step": 0}
    await hub.accept({**place, "kind": kind, **more})


async def look(clock: FakeClock) -> None:
    """Let what runs beside this take one look."""
    clock.advance(LOOK_EVERY_S)
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_replaced_controller_is_told_repeated_and_taken_back_when_its_run_ends(
    hub: Hub, clock: FakeClock
) -> None:
    bus = Bus()
    telling = asyncio.create_task(RunAlerts(hub, bus.publish, clock=clock).keep_telling())
    await look(clock)
    assert bus.told == []
    await tell(hub, "controller_replaced", reason="it hung", policy="gnn")
    await look(clock)
    await look(clock)
    assert bus.told == [("controller_replaced/r", FIRING)]
    clock.advance(REPEAT_EVERY_S)
    await look(clock)
    assert len(bus.told) == 2
    await tell(hub, "run_ended", state="stopped")
    await look(clock)
    await look(clock)
    assert bus.told[2:] == [("controller_replaced/r", RESOLVED)]
    telling.cancel()


async def test_what_the_bus_does_not_take_is_told_when_it_is_back(
    hub: Hub, clock: FakeClock
) -> None:
    bus = Bus()
    bus.away = True
    await tell(hub, "controller_replaced", reason="it hung", policy="gnn")
    telling = asyncio.create_task(RunAlerts(hub, bus.publish, clock=clock).keep_telling())
    await look(clock)
    await look(clock)
    assert bus.asked >= 2
    bus.away = False
    await look(clock)
    assert bus.told == [("controller_replaced/r", FIRING)]
    telling.cancel()
