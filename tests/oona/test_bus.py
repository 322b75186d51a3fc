"""Publishing and consuming over a real server."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
import redis.asyncio

from esper_async import leyline
from esper_async.leyline import Refused
from esper_async.leyline.envelope import unwrap, wrap
from esper_async.leyline.signing import Signer
from esper_async.oona import Backpressure, Bus, BusUnavailable, EmbeddedServer
from esper_async.oona.connection import Client
from esper_async.oona.dead_letters import DeadLetters
from esper_async.oona.depths import Depths
from esper_async.oona.leases import Leases
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.streams import WIRE_FIELD, emergency_lane, normal_lane
from esper_async.runtime.errors import BreakerOpen
from tests.oona.conftest import (
    FAST,
    KEY,
    Inbox,
    alert,
    make_bus,
    report,
    request,
    telemetry,
    until,
)


@contextlib.asynccontextmanager
async def consuming(
    bus: Bus, topic: str, group: str, handler: object, *, consumer: str = "c1", **options: bool
) -> AsyncIterator[None]:
    task = asyncio.create_task(
        bus.consume(topic, group, handler, consumer=consumer, **options)  # type: ignore[arg-type]
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def pending(client: redis.asyncio.Redis, stream: str, group: str) -> int:
    return int((await client.xpending(stream, group))["pending"])


async def test_a_message_comes_out_as_it_went_in_and_is_acknowledged(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    inbox = Inbox()
    async with consuming(bus, "alerts", "nissa", inbox):
        event_id = await bus.publish(alert(1), correlation_id="why")
        assert await inbox.has(1) == [alert(1)]
    envelope = inbox.envelopes[0]
    assert (envelope.event_id, envelope.correlation_id) == (event_id, "why")
    assert (envelope.source, envelope.sequence) == ("test", 1)
    assert await pending(client, normal_lane("alerts"), "nissa") == 0


async def test_every_group_gets_every_message(bus: Bus) -> None:
    required, dashboard = Inbox(), Inbox()
    async with (
        consuming(bus, "alerts", "nissa", required),
        consuming(bus, "alerts", "dashboard", dashboard, optional=True),
    ):
        await bus.publish(alert(1))
        assert await required.has(1) == await dashboard.has(1) == [alert(1)]


async def test_a_group_declared_as_what_it_is_not_is_an_error(bus: Bus) -> None:
    for group, optional in (("nissa", True), ("dashboard", False)):
        with pytest.raises(ValueError, match="required groups"):
            await bus.consume("alerts", group, Inbox(), consumer="c", optional=optional)


async def test_what_was_published_before_anyone_listened_is_delivered(bus: Bus) -> None:
    await bus.publish(alert(1))
    inbox = Inbox()
    async with consuming(bus, "alerts", "nissa", inbox):
        assert await inbox.has(1) == [alert(1)]


def _pause(number: int) -> leyline.AdaptationCommand:
    command = leyline.AdaptationCommand(version=1, command_id=f"c{number}", run_id="r", type=5)
    command.pause.resume = False
    command.issued_at = time.time()
    return command


async def test_critical_messages_are_handled_before_ordinary_ones_in_wait(bus: Bus) -> None:
    for number in range(20):
        await bus.publish(alert(number))
    await bus.publish(alert(99), priority=4)
    inbox = Inbox()
    async with consuming(bus, "alerts", "nissa", inbox):
        messages = await inbox.has(21)
    assert messages[0] == alert(99)
    assert messages[1:] == [alert(number) for number in range(20)]


async def test_a_critical_message_overtakes_a_batch_already_read(bus: Bus) -> None:
    order: list[str] = []
    done = asyncio.Event()

    async def handler(message: leyline.Alert, _: leyline.EventEnvelope) -> None:
        order.append(message.alert_id)
        if len(order) == 1:
            await bus.publish(alert(99), priority=4)
        await asyncio.sleep(0.006)  # work longer than the consumer goes without looking
        if len(order) == 11:
            done.set()

    for number in range(10):
        await bus.publish(alert(number))
    async with consuming(bus, "alerts", "nissa", handler):
        await asyncio.wait_for(done.wait(), 10)
    assert order.index("a99") <= 2


async def test_a_failed_handling_is_tried_again(bus: Bus) -> None:
    failures = iter([True, True, False])
    inbox = Inbox(fails=lambda _: next(failures))
    async with consuming(bus, "alerts", "nissa", inbox):
        await bus.publish(alert(1))
        assert await inbox.has(1) == [alert(1)]
    assert inbox.attempts == 3


async def test_a_handler_whose_disk_is_away_is_waited_for_and_no_attempt_is_counted(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    """Not over restarts either: each time its handling has ended, and with an answer."""
    tried = 0

    async def refused(_: object, __: object) -> None:
        nonlocal tried
        tried += 1
        raise BreakerOpen("store", 30.0) if tried % 2 else OSError("no space left")

    await bus.publish(alert(1))
    for restarts in range(1, 6):
        async with consuming(bus, "alerts", "nissa", refused):
            await until(lambda restarts=restarts: tried >= 4 * restarts)
    inbox = Inbox()
    async with consuming(bus, "alerts", "nissa", inbox):
        assert await inbox.has(1) == [alert(1)]
    assert await DeadLetters(client).count() == 0


async def test_what_failed_once_is_handled_behind_what_followed_it(bus: Bus) -> None:
    """Order holds but for failures, which hold nobody up; docs/bus.md says so."""
    failures = iter([True])
    inbox = Inbox(fails=lambda message: message == alert(0) and next(failures, False))
    await bus.publish_many([alert(number) for number in range(3)])
    async with consuming(bus, "alerts", "nissa", inbox):
        assert await inbox.has(3) == [alert(1), alert(2), alert(0)]


async def test_poison_becomes_a_dead_letter_and_holds_nobody_up(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    letters = DeadLetters(client)
    inbox = Inbox(fails=lambda message: message == alert(1))
    async with consuming(bus, "alerts", "nissa", inbox):
        for number in range(5):
            await bus.publish(alert(number))
        await inbox.has(4)
        await until(letters.count)
        await until(lambda: _nothing_pending(client))
    (letter,) = await letters.list()
    assert (letter.topic, letter.group, letter.attempts) == ("alerts", "nissa", 3)
    assert letter.reason == "ValueError: poison"
    assert inbox.attempts == 4 + 3
    assert bus.metrics.value("esper_oona_dead_letters_total", topic="alerts", group="nissa") == 1


async def _nothing_pending(client: redis.asyncio.Redis) -> bool:
    return await pending(client, normal_lane("alerts"), "nissa") == 0


async def test_dead_letters_can_be_shown_replayed_and_purged(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    letters = DeadLetters(client)
    broken = [True]
    inbox = Inbox(fails=lambda _: broken[0])
    async with consuming(bus, "alerts", "nissa", inbox):
        await bus.publish(alert(1))
        await bus.publish(alert(2))
        await until(lambda: _two(letters))
        first, second = await letters.list()
        assert [each.letter_id for each in await letters.list(after=first.letter_id)] == [
            second.letter_id
        ]
        assert await letters.show(first.letter_id) == first
        broken[0] = False
        await letters.replay(first.letter_id)
        assert await inbox.has(1) == [unwrap(first.wire, signer=Signer(KEY))[0]]
    assert [each.attempts_made for each in inbox.envelopes] == [3]
    assert await letters.purge(second.letter_id) == 1
    assert await letters.count() == 0
    with pytest.raises(KeyError):
        await letters.replay(first.letter_id)


async def test_a_dead_letter_says_how_often_it_was_tried_in_all(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    letters = DeadLetters(client)
    inbox = Inbox(fails=lambda _: True)
    async with consuming(bus, "alerts", "nissa", inbox):
        await bus.publish(alert(1))
        for tried in (3, 6):
            await until(letters.count)
            (letter,) = await letters.list()
            envelope = unwrap(letter.wire, signer=Signer(KEY))[1]
            assert (letter.attempts, envelope.attempts_made) == (tried, tried)
            await letters.replay(letter.letter_id)
    assert bus.refusals == {}


async def _two(letters: DeadLetters) -> bool:
    return await letters.count() == 2


async def test_cancelling_a_consumer_lets_its_handler_finish(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    begun, finished = asyncio.Event(), asyncio.Event()

    async def handler(_: object, __: object) -> None:
        begun.set()
        await asyncio.sleep(0.1)
        finished.set()

    task = asyncio.create_task(bus.consume("alerts", "nissa", handler, consumer="c"))
    await bus.publish(alert(1))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert finished.is_set()
    assert await pending(client, normal_lane("alerts"), "nissa") == 0


async def test_an_idle_consumer_stops_at_once(bus: Bus) -> None:
    inbox = Inbox()
    task = asyncio.create_task(bus.consume("alerts", "nissa", inbox, consumer="c"))
    await bus.publish(alert(1))
    await inbox.has(1)
    loop = asyncio.get_running_loop()
    started = loop.time()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert loop.time() - started < FAST.block_s / 2


async def test_a_consumer_that_comes_back_gets_what_it_had_not_acknowledged(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    await bus.publish(alert(1))
    await client.xreadgroup("nissa", "c1", {normal_lane("alerts"): ">"})
    inbox = Inbox()
    async with consuming(bus, "alerts", "nissa", inbox):
        assert await inbox.has(1) == [alert(1)]


async def test_what_a_dead_consumer_held_is_taken_over_by_another(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    for number in range(3):
        await bus.publish(alert(number))
    await client.xreadgroup("nissa", "dead", {normal_lane("alerts"): ">"})
    inbox = Inbox()
    async with consuming(bus, "alerts", "nissa", inbox, consumer="alive"):
        messages = await inbox.has(3)
    assert messages == [alert(number) for number in range(3)]
    assert bus.metrics.value("esper_oona_claimed_total", topic="alerts", group="nissa") == 3


async def test_a_long_handler_keeps_its_lease(bus: Bus) -> None:
    """Two consumers, one message, a handler longer than the lease: it is handled once."""
    calls: list[str] = []
    free = asyncio.Event()

    def slow(name: str) -> object:
        async def handler(_: object, __: object) -> None:
            calls.append(name)
            await asyncio.sleep(FAST.lease_s * 3)
            free.set()

        return handler

    async with (
        consuming(bus, "alerts", "nissa", slow("one"), consumer="one"),
        consuming(bus, "alerts", "nissa", slow("two"), consumer="two"),
    ):
        await bus.publish(alert(1))
        await free.wait()
    assert len(calls) == 1


async def test_all_that_is_in_hand_keeps_its_lease_however_much_that_is(
    bus: Bus, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five are in hand, and pending ones come by twos."""
    monkeypatch.setattr("esper_async.oona.leases._PAGE", 2)
    stream = normal_lane("alerts")
    await bus.publish_many([alert(number) for number in range(5)])
    rows = await client.xreadgroup("nissa", "one", {stream: ">"})
    in_hand = {(stream, entry_id.decode()) for entry_id, _ in rows[0][1]}

    async def idle_ms() -> list[int]:
        pending = await client.xpending_range(stream, "nissa", "-", "+", 10)
        return [row["time_since_delivered"] for row in pending]

    leases = Leases(
        client, topic="alerts", group="nissa", consumer="one",
        delivery=SimpleNamespace(in_hand=in_hand),  # type: ignore[arg-type]
        settings=dataclasses.replace(FAST, claim_every_s=0.01, lease_s=60.0),
        metrics=BusMetrics(), on_claimed=lambda: asyncio.sleep(0),
    )  # fmt: skip

    async def old() -> bool:
        return min(await idle_ms()) >= 100

    async def young() -> bool:
        return max(await idle_ms()) < 100

    await until(old)
    renewing = asyncio.create_task(leases.run())
    await until(young, 5.0)
    renewing.cancel()
    assert len(in_hand) == 5


async def test_an_entry_that_kills_its_consumer_each_time_is_set_aside(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    """The innocent entry read along with it is handled."""
    await bus.publish(alert(1))
    await bus.publish(alert(2))
    stream = normal_lane("alerts")
    rows = await client.xreadgroup("nissa", "c1", {stream: ">"})
    poison = rows[0][1][0][0].decode()
    await client.hset("esper:attempts:alerts:nissa", f"{stream}/{poison}", 3)
    inbox = Inbox()
    async with consuming(bus, "alerts", "nissa", inbox):
        assert await inbox.has(1) == [alert(2)]
    (letter,) = await DeadLetters(client).list()
    assert letter.entry_id == poison
    assert await client.exists("esper:attempts:alerts:nissa") == 0


async def test_a_destroyed_group_and_an_emptied_server_are_recovered_from(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    inbox = Inbox()
    async with consuming(bus, "alerts", "nissa", inbox):
        await bus.publish(alert(1))
        await inbox.has(1)
        await client.xgroup_destroy(normal_lane("alerts"), "nissa")
        await bus.publish(alert(2))
        assert await inbox.has(2) == [alert(1), alert(2)]
        await client.flushall()
        await bus.publish(alert(3))
        assert await inbox.has(3) == [alert(1), alert(2), alert(3)]


async def test_consuming_goes_on_after_redis_was_killed(server: EmbeddedServer, bus: Bus) -> None:
    inbox = Inbox()
    async with consuming(bus, "alerts", "nissa", inbox):
        await bus.publish(alert(1))
        await inbox.has(1)
        server.signal(9)  # type: ignore[arg-type]
        await server.wait()
        await server.start()
        await until(lambda: _published(bus, alert(2)))
        assert await inbox.has(2) == [alert(1), alert(2)]


async def _published(bus: Bus, message: leyline.Alert) -> bool:
    try:
        return bool(await bus.publish(message))
    except (BusUnavailable, BreakerOpen):
        return False


async def test_publishing_without_redis_fails_at_once_and_then_opens_the_breaker(
    server: EmbeddedServer, bus: Bus
) -> None:
    await server.stop()
    for _ in range(FAST.breaker_failures):
        with pytest.raises(BusUnavailable):
            await bus.publish(telemetry(1))
    with pytest.raises(BreakerOpen):
        await bus.publish(telemetry(1))
    assert bus.metrics.value("esper_oona_breaker_state", breaker="oona.publish") == 2


async def test_messages_published_together_arrive_in_order_and_share_one_round_trip(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    event_ids = await bus.publish_many([alert(number) for number in range(100)])
    assert len(set(event_ids)) == 100
    inbox = Inbox()
    async with consuming(bus, "alerts", "nissa", inbox):
        assert await inbox.has(100) == [alert(number) for number in range(100)]
    published = bus.metrics.value("esper_oona_published_total", topic="alerts")
    assert published == 100
    assert bus.metrics.value("esper_oona_publish_latency_seconds_count", topic="alerts") == 1


async def test_many_publishers_at_once_ask_how_deep_a_topic_is_only_once(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    whole = Depths._ask

    async def ask(depths: Depths, topic: leyline.Topic) -> int:
        asked.append(topic.name)
        return await whole(depths, topic)

    monkeypatch.setattr(Depths, "_ask", ask)
    async with make_bus(server, settings=dataclasses.replace(FAST, depth_refresh_s=60.0)) as bus:
        await asyncio.gather(*[bus.publish(alert(number)) for number in range(500)])
    assert asked == ["alerts"]


async def test_one_refused_among_many_means_none_was_published(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    with pytest.raises(Refused):
        await bus.publish_many([alert(1), leyline.Alert(version=1)])
    assert await client.xlen(normal_lane("alerts")) == 0


async def test_an_invalid_message_is_refused_before_redis(bus: Bus) -> None:
    with pytest.raises(Refused, match="wrong_version"):
        await bus.publish(leyline.Alert(alert_id="a"))
    with pytest.raises(Refused, match="alert_id is empty"):
        await bus.publish(leyline.Alert(version=1))


async def test_a_durable_message_needs_a_spool(bus: Bus) -> None:
    with pytest.raises(RuntimeError, match="spool"):
        await bus.publish(report(1))


async def test_depth_pushes_back_drops_and_lets_pass_by_priority(server: EmbeddedServer) -> None:
    settings = dataclasses.replace(
        FAST, queue_bound=8, high_water=6, low_water=2, depth_refresh_s=0.0
    )
    async with make_bus(server, settings=settings) as bus:
        for number in range(7):
            await bus.publish(alert(number))
        assert await bus.publish(alert(90), priority=1) == ""  # conservative: low is shed
        assert await bus.publish(alert(7))
        with pytest.raises(Backpressure, match="8 deep"):
            await bus.publish(alert(8))
        assert await bus.publish(alert(9), priority=4)  # critical passes
        dropped = bus.metrics.value(
            "esper_oona_publish_dropped_total", priority="low", reason="depth"
        )
        assert dropped == 1
        inbox = Inbox()
        async with consuming(bus, "alerts", "nissa", inbox):
            assert await bus.publish(alert(8), deadline_s=10.0)  # waits until it drains
            await inbox.has(10)
        assert await bus.publish(alert(91), priority=1)  # calm again


async def test_forged_stale_replayed_oversized_and_foreign_messages_are_refused_and_counted(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    inbox = Inbox()
    stream = normal_lane("commands")
    good = _pause(1)
    wire = wrap(good, source="x", signer=Signer(KEY))
    stale = _pause(2)
    stale.issued_at -= 120
    early = _pause(3)
    early.issued_at += 60
    foreign = leyline.AdaptationCommand()
    foreign.CopyFrom(_pause(4))
    foreign.version = 2
    bad = {
        "forged": [wrap(_pause(5), source="x", signer=Signer(bytes(32)))],
        "stale": [wrap(stale, source="x", signer=Signer(KEY))],
        "from_the_future": [wrap(early, source="x", signer=Signer(KEY))],
        "wrong_version": [wrap(foreign, source="x", signer=Signer(KEY))],
        "wrong_topic": [wrap(alert(1), source="x", signer=Signer(KEY))],
        "unsigned": [b"noise", wire[:-1]],
        "oversized": [bytes(leyline.LIMITS.message_bytes + 1)],
        "replayed": [wire],
    }
    async with consuming(bus, "commands", "tolaria", inbox):
        await client.xadd(stream, {WIRE_FIELD: wire})
        for wires in bad.values():
            for each in wires:
                await client.xadd(stream, {WIRE_FIELD: each})
        await bus.publish(_pause(6))
        await inbox.has(2)
    assert [message.command_id for message in inbox.messages] == ["c1", "c6"]
    assert bus.refusals == {reason: len(wires) for reason, wires in bad.items()}
    for reason, wires in bad.items():
        counted = bus.metrics.value("esper_oona_refused_total", topic="commands", reason=reason)
        assert counted == len(wires)
    assert await pending(client, stream, "tolaria") == 0
    letters = await DeadLetters(client).list()  # ours, or perhaps ours: kept for people
    assert {each.reason.partition(":")[0] for each in letters} == {"forged", "wrong_version"}
    assert len(letters) == 2


async def test_a_critical_message_rides_the_emergency_lane(
    bus: Bus, client: redis.asyncio.Redis
) -> None:
    await bus.publish(alert(1), priority=4)
    assert await client.xlen(emergency_lane("alerts")) == 1
    assert bus.metrics.value("esper_oona_publish_rerouted_total", topic="alerts") == 1


async def test_an_emergency_passes_in_front_of_retries_that_are_due(server: EmbeddedServer) -> None:
    """Each attempt takes a while, all fail once, and all are due together."""
    settings = dataclasses.replace(
        FAST, retry_base_s=0.2, retry_cap_s=0.2, emergency_every_s=0.0, batch=100
    )
    order: list[str] = []
    urgent_sent = asyncio.Event()

    async with make_bus(server, settings=settings) as bus:

        async def handler(message: leyline.Alert, _envelope: leyline.EventEnvelope) -> None:
            order.append(message.alert_id)
            if order.count(message.alert_id) == 1 and message.alert_id != "a99":
                raise ValueError("once")
            if len(order) == 45:
                await bus.publish(alert(99), priority=4)
                urgent_sent.set()

        for number in range(40):
            await bus.publish(alert(number))
        async with consuming(bus, "alerts", "nissa", handler):
            await until(lambda: len(order) == 81)
    assert urgent_sent.is_set()
    assert order.index("a99") < 50


async def test_two_consumers_of_a_group_share_the_work(bus: Bus) -> None:
    one, two = Inbox(), Inbox()
    async with (
        consuming(bus, "kernel_requests", "tezzeret", one, consumer="one"),
        consuming(bus, "kernel_requests", "tezzeret", two, consumer="two"),
    ):
        for number in range(40):
            await bus.publish(request(number))
        await until(lambda: len(one.messages) + len(two.messages) == 40)
    ids = {message.request_id for message in one.messages + two.messages}
    assert len(ids) == 40
