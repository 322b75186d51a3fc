"""Batches: what waits together is handed over together, and nothing is lost by that."""

import asyncio
import contextlib
import dataclasses
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from esper_async import leyline
from esper_async.leyline.envelope import unwrap
from esper_async.leyline.signing import Signer
from esper_async.oona import Bus, EmbeddedServer
from esper_async.oona.connection import Client
from esper_async.oona.dead_letters import DeadLetters
from esper_async.oona.streams import normal_lane
from esper_async.runtime.errors import BreakerOpen
from tests.oona.conftest import FAST, KEY, alert, make_bus, until

STREAM = normal_lane("alerts")
Arrived = Sequence[tuple[Any, leyline.EventEnvelope]]


class Tray:
    """A handler of batches that keeps what it gets; `fails` says which messages it cannot take.

    All of a batch is kept or nothing, as a transaction would.
    """

    def __init__(self, fails: Callable[[str], bool] = lambda name: False) -> None:
        self.batches: list[list[str]] = []
        self._fails = fails

    async def __call__(self, arrived: Arrived) -> None:
        names = [message.alert_id for message, _ in arrived]
        for name in names:
            if self._fails(name):
                raise ValueError(f"{name} is poison")
        self.batches.append(names)

    @property
    def names(self) -> list[str]:
        return [name for batch in self.batches for name in batch]


@contextlib.asynccontextmanager
async def consuming(bus: Bus, handler: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(bus.consume_batches("alerts", "nissa", handler, consumer="c1"))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def unacknowledged(client: Client) -> int:
    return int((await client.xpending(STREAM, "nissa"))["pending"])


async def test_what_waits_together_comes_together_in_order(bus: Bus, client: Client) -> None:
    await bus.publish_many([alert(number) for number in range(250)])
    tray = Tray()
    async with consuming(bus, tray):
        await until(lambda: len(tray.names) == 250)
    assert [len(batch) for batch in tray.batches] == [100, 100, 50]
    assert tray.names == [f"a{number}" for number in range(250)]
    assert await unacknowledged(client) == 0
    handled = bus.metrics.value("esper_oona_handled_total", topic="alerts", group="nissa")
    assert handled == 250


async def test_nothing_is_acknowledged_before_the_batch_has_taken_effect(
    bus: Bus, client: Client
) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def handler(_: Arrived) -> None:
        begun.set()
        await may_end.wait()

    await bus.publish_many([alert(number) for number in range(5)])
    async with consuming(bus, handler):
        await asyncio.wait_for(begun.wait(), 10)
        assert await unacknowledged(client) == 5
        may_end.set()
    assert await unacknowledged(client) == 0


async def test_a_poisoned_message_is_set_aside_and_the_others_of_its_batch_are_handled(
    bus: Bus, client: Client
) -> None:
    letters = DeadLetters(client)
    await bus.publish_many([alert(number) for number in range(9)])
    tray = Tray(fails=lambda name: name == "a4")
    async with consuming(bus, tray):
        await until(letters.count)
    (letter,) = await letters.list()
    assert letter.reason == "ValueError: a4 is poison"
    assert letter.attempts == 3
    assert tray.names == [f"a{number}" for number in range(9) if number != 4]
    assert await unacknowledged(client) == 0


async def test_while_what_a_handler_leans_on_is_away_nothing_is_set_aside(
    bus: Bus, client: Client
) -> None:
    """A disk that fails, and then a breaker that refuses: neither is the messages' fault."""
    refusals = [OSError("no space left"), sqlite3.OperationalError("disk I/O error")]
    refusals += [BreakerOpen("store", 0.01)] * 30
    handled: list[str] = []

    async def handler(arrived: Arrived) -> None:
        if refusals:
            raise refusals.pop(0)
        handled.extend(message.alert_id for message, _ in arrived)

    await bus.publish_many([alert(number) for number in range(4)])
    async with consuming(bus, handler):
        await until(lambda: len(handled) == 4)
    assert sorted(handled) == ["a0", "a1", "a2", "a3"]
    assert await DeadLetters(client).count() == 0
    assert await unacknowledged(client) == 0


async def test_what_was_delivered_before_comes_alone_and_what_ends_its_process_is_set_aside(
    bus: Bus, client: Client
) -> None:
    await bus.publish_many([alert(number) for number in range(4)])
    rows: Any = await client.xreadgroup("nissa", "c1", {STREAM: ">"})  # and then the process died
    deadly = rows[0][1][1][0].decode()
    await client.hset("esper:attempts:alerts:nissa", f"{STREAM}/{deadly}", 3)
    tray = Tray()
    async with consuming(bus, tray):
        await until(lambda: len(tray.names) == 3)
    assert tray.batches == [["a0"], ["a2"], ["a3"]]
    (letter,) = await DeadLetters(client).list()
    assert letter.entry_id == deadly


async def test_a_copy_that_comes_later_is_not_handed_over_again(bus: Bus, client: Client) -> None:
    tray = Tray()
    async with consuming(bus, tray):
        await bus.publish(alert(1))
        await until(lambda: tray.names == ["a1"])
        rows: Any = await client.xrange(STREAM)
        ((_, fields),) = rows
        await client.xadd(STREAM, fields)
        await bus.publish(alert(2))
        await until(lambda: "a2" in tray.names)
    assert tray.names == ["a1", "a2"]


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_fails_and_whoever_is_cancelled_each_is_handled_or_a_dead_letter(
    server: EmbeddedServer, client: Client, seed: int
) -> None:
    """Some fail always, some by chance; the consumer is cancelled again and again."""
    source = random.Random(seed)
    names = {f"a{number}" for number in range(300)}
    poisoned = set(source.sample(sorted(names), 4))
    tray = Tray(fails=lambda name: name in poisoned or source.random() < 0.002)
    letters = DeadLetters(client)
    settings = dataclasses.replace(FAST, batch=32)
    async with make_bus(server, settings=settings) as bus:
        for start in range(0, 300, 60):
            await bus.publish_many([alert(number) for number in range(start, start + 60)])
            async with consuming(bus, tray):
                await asyncio.sleep(source.uniform(0.0, 0.03))
        async with consuming(bus, tray):
            await until(lambda: _all_told(client, tray, letters, len(names)), timeout_s=30.0)
    aside = {_alert_id(each.wire) for each in await letters.list()}
    assert aside >= poisoned
    assert set(tray.names) | aside == names
    assert not {name for name, count in Counter(tray.names).items() if count > 1}


async def _all_told(client: Client, tray: Tray, letters: DeadLetters, count: int) -> bool:
    done = len(set(tray.names)) + await letters.count() >= count
    return done and await unacknowledged(client) == 0


def _alert_id(wire: bytes) -> str:
    message, _ = unwrap(wire, signer=Signer(KEY))
    assert isinstance(message, leyline.Alert)
    return message.alert_id
