"""A producer's numbers: what they count, what they leave out, and what a reader makes of them."""

import asyncio
import sqlite3
from pathlib import Path

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async import leyline
from esper_async.leyline import Refused, Signer, wrap
from esper_async.oona import Backpressure, Bridge, Bus, BusSettings, EmbeddedServer, Spool
from esper_async.oona.connection import Client
from esper_async.oona.gaps import Gaps
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.sequence import Numbering, Tracker
from esper_async.oona.streams import WIRE_FIELD, normal_lane
from esper_async.runtime.errors import BreakerOpen
from tests.oona.conftest import FAST, KEY, Inbox, alert, make_bus, report, telemetry, until
from tests.oona.test_bus import _nothing_pending, consuming

STREAM = normal_lane("alerts")
LABELS = {"topic": "alerts", "group": "nissa"}


def counted(bus: Bus, what: str) -> float:
    return bus.metrics.value(f"esper_oona_sequence_{what}_total", **LABELS)


async def lose(client: Client, place: int) -> bytes:
    """Remove one entry of the stream, as a server may that crashes; return what was in it."""
    entry_id, fields = (await client.xrange(STREAM))[place]
    await client.xdel(STREAM, entry_id)
    return bytes(fields[WIRE_FIELD])


# -- the tracker ---------------------------------------------------------------------------------


class NaiveTracker:
    """What a tracker does, with a set of every number there is."""

    def __init__(self) -> None:
        self.begun: dict[tuple[str, int], int] = {}
        self.missing: dict[tuple[str, int], set[int]] = {}
        self.passed_over = {"a": 0, "b": 0}
        self.late = 0

    def observe(self, stream: str, incarnation: int, number: int, redelivered: bool) -> None:
        key = (stream, incarnation)
        if not incarnation or not number:
            return
        if key not in self.begun:
            if not redelivered:
                self.begun[key], self.missing[key] = number, set()
            return
        skipped = range(self.begun[key] + 1, number)
        if not redelivered:
            self.missing[key].update(skipped)
            self.passed_over[stream] += len(skipped)
        if number in self.missing[key]:
            self.missing[key].remove(number)
            self.late += 1
        self.begun[key] = max(self.begun[key], number)


_OBSERVED = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 12), st.booleans()),
    max_size=60,
)


@settings(max_examples=500, deadline=None, database=None)
@given(_OBSERVED)
def test_a_tracker_counts_as_one_that_remembers_every_number(
    observed: list[tuple[str, int, int, bool]],
) -> None:
    tracker, naive = Tracker(), NaiveTracker()
    for stream, incarnation, number, redelivered in observed:
        tracker.observe(stream, incarnation, number, redelivered=redelivered)
        naive.observe(stream, incarnation, number, redelivered)
        assert tracker.late == naive.late
        assert {stream: tracker.passed_over[stream] for stream in "ab"} == naive.passed_over


@settings(max_examples=200, deadline=None, database=None)
@given(_OBSERVED)
def test_a_tracker_with_little_memory_keeps_little_and_invents_no_late_ones(
    observed: list[tuple[str, int, int, bool]],
) -> None:
    forgetful, whole = Tracker(holes_kept=2), Tracker()
    trackers = (Tracker(lines_kept=2, holes_kept=2), forgetful, whole)
    for stream, incarnation, number, redelivered in observed:
        for tracker in trackers:
            tracker.observe(stream, incarnation, number, redelivered=redelivered)
        assert len(trackers[0]._lines) <= 2
        assert all(len(line.holes) <= 2 for line in forgetful._lines.values())
    assert forgetful.passed_over == whole.passed_over
    assert forgetful.late <= whole.late
    assert all(tracker.late <= tracker.passed_over.total() for tracker in trackers)


@settings(max_examples=200, deadline=None, database=None)
@given(st.permutations(range(1, 12)), st.sets(st.integers(2, 11)))
def test_what_was_passed_over_and_did_not_come_late_is_what_was_lost(
    order: list[int], lost: set[int]
) -> None:
    tracker = Tracker()
    for number in [1, *[each for each in order if each not in lost], 12]:
        tracker.observe("a", 7, number)
    assert tracker.passed_over["a"] - tracker.late == len(lost)


# -- the numbering -------------------------------------------------------------------------------


def test_each_stream_has_its_numbers_and_each_start_its_incarnation() -> None:
    numbering = Numbering()
    assert [numbering.take(stream) for stream in "aabba"] == [1, 2, 1, 2, 3]
    numbering.give_back("a")
    assert numbering.take("a") == 3
    assert 0 != numbering.incarnation != Numbering().incarnation


def test_numbers_are_given_back_for_the_errors_that_say_so() -> None:
    numbering = Numbering()
    for error, left in ((KeyError, 1), (ValueError, 3)):
        with pytest.raises(error), numbering.given_back_on(KeyError):
            numbering.take("a")
            raise error
        assert numbering.take("a") == left


# -- what a producer numbers ---------------------------------------------------------------------


async def sequences(bus: Bus, count: int, topic: str = "alerts", group: str = "nissa") -> list[int]:
    inbox = Inbox()
    async with consuming(bus, topic, group, inbox):
        await inbox.has(count)
    return [envelope.sequence for envelope in inbox.envelopes]


async def test_what_is_dropped_or_pushed_back_has_no_number(server: EmbeddedServer) -> None:
    settings = BusSettings(queue_bound=4, high_water=2, low_water=1, depth_refresh_s=60.0)
    async with make_bus(server, settings=settings) as bus:
        for number in range(4):
            await bus.publish(alert(number))
            if number == 2:
                assert await bus.publish(alert(90), priority=1) == ""
        with pytest.raises(Backpressure):
            await bus.publish(alert(91))
        assert await sequences(bus, 4) == [1, 2, 3, 4]


async def test_what_is_refused_or_meets_an_open_breaker_has_no_number(
    server: EmbeddedServer, bus: Bus
) -> None:
    await bus.publish(telemetry(1))
    oversized = telemetry(2)
    oversized.run_id = "x" * leyline.LIMITS.message_bytes
    with pytest.raises(Refused, match="oversized"):
        await bus.publish_many([telemetry(3), oversized])
    for _ in range(FAST.breaker_failures):
        with pytest.raises(OSError, match="nothing"):
            await bus.breaker.call(_fail)
    with pytest.raises(BreakerOpen):
        await bus.publish(telemetry(4))
    await until(lambda: not bus.breaker.retry_after_s)
    await bus.publish(telemetry(5))
    inbox = Inbox()
    async with consuming(bus, "telemetry", "nissa", inbox, optional=True):
        await inbox.has(2)
    assert [envelope.sequence for envelope in inbox.envelopes] == [1, 2]


async def _fail() -> None:
    raise OSError("nothing there")


async def test_what_goes_through_the_spool_is_numbered_by_itself(
    server: EmbeddedServer, spool: Spool
) -> None:
    """It may wait on disk while others on the same stream pass, which is no gap."""
    inbox = Inbox()
    async with make_bus(server, spool=spool) as bus, consuming(bus, "alerts", "nissa", inbox):
        await bus.publish_many([alert(1), alert(2)])
        await bus.publish(alert(3), durable=True)
        await inbox.has(3)
    numbers = {(envelope.incarnation, envelope.sequence) for envelope in inbox.envelopes}
    assert sorted(number for _, number in numbers) == [1, 1, 2]
    assert len({incarnation for incarnation, _ in numbers}) == 2


async def test_what_waits_in_the_spool_already_takes_no_second_number(
    server: EmbeddedServer, spool: Spool
) -> None:
    await server.stop()
    async with make_bus(server, spool=spool) as bus:
        await bus.publish_many([report(1), report(1, "again")])
        await bus.publish(report(1))
        await bus.publish(report(2))
        await server.start()
        assert await sequences(bus, 2, "field_reports", "simic") == [1, 2]


async def test_what_the_disk_did_not_take_has_no_number(
    server: EmbeddedServer, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_bus(server, spool=spool) as bus:
        with monkeypatch.context() as patched:
            patched.setattr(spool, "append_many", _full)
            with pytest.raises(sqlite3.OperationalError):
                await bus.publish(report(1))
        await bus.publish(report(2))
        assert await sequences(bus, 1, "field_reports", "simic") == [1]


def _full(*_: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")


async def test_a_bridge_numbers_what_it_sends(
    server: EmbeddedServer, bus: Bus, tmp_path: Path
) -> None:
    """A full queue's drops, a message that waits already and an oversized one take no number."""
    await server.stop()
    bridge = Bridge(server.url, tmp_path, KEY, "child", settings=FAST, queue_entries=2).start()
    oversized = telemetry(9)
    oversized.run_id = "x" * leyline.LIMITS.message_bytes
    with pytest.raises(Refused):
        bridge.offer(oversized)
    assert [bridge.offer(telemetry(number)) for number in range(3)] == [True, True, False]
    for number in (1, 1, 2):
        bridge.spool(report(number))
    await server.start()
    points, reports = Inbox(), Inbox()
    async with (
        consuming(bus, "telemetry", "nissa", points, optional=True),
        consuming(bus, "field_reports", "simic", reports),
    ):
        await points.has(2)
        # the queue has room again once the producer knows of it, too; a drop takes no number
        await until(lambda: bridge.offer(telemetry(3)))
        await points.has(3)
        await reports.has(2)
        await asyncio.to_thread(bridge.close)
    assert [envelope.sequence for envelope in points.envelopes[:3]] == [1, 2, 3]
    assert [envelope.sequence for envelope in reports.envelopes] == [1, 2]
    assert points.envelopes[0].incarnation != reports.envelopes[0].incarnation


# -- what a consumer counts ----------------------------------------------------------------------


def next_but_one(envelope: leyline.EventEnvelope, message: Message) -> bytes:
    """Wrap what its producer would have sent next but one."""
    return wrap(
        message,
        source=envelope.source,
        signer=Signer(KEY),
        incarnation=envelope.incarnation,
        sequence=envelope.sequence + 2,
    )


async def test_a_lost_message_is_a_gap_until_it_comes_late(bus: Bus, client: Client) -> None:
    await bus.publish_many([alert(number) for number in range(5)])
    wire = await lose(client, 2)
    await lose(client, 2)
    inbox = Inbox()
    async with consuming(bus, "alerts", "nissa", inbox):
        await inbox.has(3)
        await until(lambda: counted(bus, "gaps") == 2)
        assert counted(bus, "late") == 0
        await client.xadd(STREAM, {WIRE_FIELD: wire})
        await until(lambda: counted(bus, "late") == 1)
        await client.xadd(STREAM, {WIRE_FIELD: wire})  # a repeat is neither
        await bus.publish(alert(5))
        await inbox.has(5)
        assert (counted(bus, "gaps"), counted(bus, "late")) == (2, 1)


async def test_lanes_restarts_and_redeliveries_are_no_gaps(
    server: EmbeddedServer, bus: Bus, client: Client
) -> None:
    """The one gap that is made at the end is the only one that is counted."""
    await bus.publish_many([alert(number) for number in range(4)])
    rows = await client.xreadgroup("nissa", "c1", {STREAM: ">"})
    ids = [row[0] for row in rows[0][1]]
    await client.xack(STREAM, "nissa", ids[1], ids[2])  # before this consumer started
    inbox = Inbox()
    async with consuming(bus, "alerts", "nissa", inbox):
        await inbox.has(2)
        for number in range(10, 16):
            await bus.publish(alert(number), priority=4 if number % 2 else None)
        async with make_bus(server) as again:  # the producer starts again
            await again.publish_many([alert(20), alert(21)])
        await inbox.has(10)
        await until(lambda: _nothing_pending(client))
        await client.xgroup_setid(STREAM, "nissa", "0")  # everything once more
        await bus.publish(alert(30))
        await until(lambda: bus.metrics.value("esper_oona_duplicates_total", **LABELS) == 7)
        await inbox.has(13)
        skipping = next_but_one(inbox.envelopes[-1], alert(31))
        await client.xadd(STREAM, {WIRE_FIELD: skipping})
        await until(lambda: counted(bus, "gaps"))
        assert (counted(bus, "gaps"), counted(bus, "late")) == (1, 0)


async def test_durable_messages_that_are_published_again_are_no_late_ones(
    server: EmbeddedServer, spool: Spool, client: Client
) -> None:
    """The required group acknowledges nothing, so everything comes again."""
    labels = {"topic": "field_reports", "group": "dashboard"}
    async with make_bus(server, spool=spool) as bus:
        inbox = Inbox()
        async with consuming(bus, "field_reports", "dashboard", inbox, optional=True):
            await bus.publish_many([report(number) for number in range(3)])
            await inbox.has(3)
            await client.flushall()
            await bus.publish_many([report(number) for number in range(3, 6)])
            await inbox.has(6)
            await until(lambda: bus.metrics.value("esper_oona_duplicates_total", **labels) >= 3)
            skipping = next_but_one(inbox.envelopes[-1], report(7))
            await client.xadd(normal_lane("field_reports"), {WIRE_FIELD: skipping})
            gaps = "esper_oona_sequence_gaps_total"
            await until(lambda: bus.metrics.value(gaps, **labels))
            assert bus.metrics.value(gaps, **labels) == 1
            assert bus.metrics.value("esper_oona_sequence_late_total", **labels) == 0


async def test_only_a_group_of_one_has_gaps(client: Client) -> None:
    metrics, tracker = BusMetrics(), Tracker()
    gaps = Gaps(client, tracker, **LABELS, consumer="c1", settings=FAST, metrics=metrics)
    await client.xgroup_create(STREAM, "nissa", mkstream=True)
    for name in ("c1", "c2"):
        await client.xgroup_createconsumer(STREAM, "nissa", name)
    tracker.observe(STREAM, 7, 1)
    tracker.observe(STREAM, 7, 4)
    await gaps.report()
    assert metrics.value("esper_oona_sequence_gaps_total", **LABELS) == 0  # c2 has them
    tracker.observe(STREAM, 7, 2)  # taken over from it
    await client.xgroup_delconsumer(STREAM, "nissa", "c2")
    tracker.observe(STREAM, 7, 6)
    await gaps.report()
    await gaps.report()
    assert metrics.value("esper_oona_sequence_gaps_total", **LABELS) == 1
    assert metrics.value("esper_oona_sequence_late_total", **LABELS) == 1
