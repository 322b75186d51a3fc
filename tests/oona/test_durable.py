"""What must not be lost is not lost, and what it does is done once."""

import asyncio
import dataclasses
import functools
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from esper_async import leyline
from esper_async.leyline.envelope import unwrap
from esper_async.leyline.signing import Signer
from esper_async.oona import Bus, EmbeddedServer, Spool, first_time, prepare_effects
from esper_async.oona.connection import Client
from esper_async.oona.courier import Courier
from esper_async.oona.errors import SpoolBusy
from esper_async.oona.janitor import Janitor
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.streams import normal_lane
from tests.oona.conftest import FAST, KEY, Inbox, alert, emergency, make_bus, report, until
from tests.oona.test_bus import consuming

STREAM = normal_lane("field_reports")


class Ledger:
    """A consumer with a store: each report's effect and its event id in one transaction."""

    def __init__(self, path: Path) -> None:
        self.database = sqlite3.connect(path)
        prepare_effects(self.database)
        with self.database:
            self.database.execute("CREATE TABLE IF NOT EXISTS effects (report_id TEXT)")
        self.deliveries = 0

    async def __call__(self, message: leyline.FieldReport, envelope: leyline.EventEnvelope) -> None:
        self.deliveries += 1
        with self.database:
            if first_time(self.database, envelope.event_id, group="simic"):
                self.database.execute("INSERT INTO effects VALUES (?)", (message.report_id,))

    def effects(self) -> list[str]:
        rows = self.database.execute("SELECT report_id FROM effects ORDER BY rowid").fetchall()
        return [row[0] for row in rows]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    opened = Ledger(tmp_path / "ledger.sqlite")
    yield opened  # type: ignore[misc]
    opened.database.close()


async def test_a_durable_message_leaves_the_spool_only_when_acknowledged(
    server: EmbeddedServer, spool: Spool, client: Client
) -> None:
    async with make_bus(server, spool=spool) as bus:
        await bus.publish(report(1))
        await until(lambda: _length(client, 1))
        await client.xreadgroup("simic", "other", {STREAM: ">"})
        for _ in range(3):
            await _turns(bus)
        assert len(spool) == 1  # published and read, but not acknowledged
        (entry,) = await client.xrange(STREAM)
        await client.xack(STREAM, "simic", entry[0])
        await until(lambda: len(spool) == 0)


async def _turns(bus: Bus) -> None:
    """Let the courier look at least once more."""
    before = bus.metrics.value("esper_oona_courier_rounds_total")
    await until(lambda: bus.metrics.value("esper_oona_courier_rounds_total") > before + 1)


async def _length(client: Client, at_least: int) -> bool:
    return int(await client.xlen(STREAM)) >= at_least


async def test_publishing_a_durable_message_does_not_need_redis(
    server: EmbeddedServer, spool: Spool
) -> None:
    await server.stop()
    inbox = Inbox()
    async with make_bus(server, spool=spool) as bus:
        async with asyncio.timeout(1.0):
            for number in range(5):
                await bus.publish(report(number))
        await server.start()
        async with consuming(bus, "field_reports", "simic", inbox):
            assert await inbox.has(5) == [report(number) for number in range(5)]
            await until(lambda: len(spool) == 0)


async def test_emergencies_are_durable_and_ride_the_emergency_lane(
    server: EmbeddedServer, spool: Spool
) -> None:
    inbox = Inbox()
    async with make_bus(server, spool=spool) as bus:
        await bus.publish(emergency(1))
        async with consuming(bus, "control", "tolaria", inbox):
            assert await inbox.has(1) == [emergency(1)]
            await until(lambda: len(spool) == 0)


async def test_redis_killed_mid_stream_every_effect_happens_exactly_once(
    server: EmbeddedServer, spool: Spool, ledger: Ledger
) -> None:
    """200 reports; the server is killed three times, emptied once; consumer restarted once."""
    total = 200
    async with make_bus(server, spool=spool) as bus:

        async def produce() -> None:
            for number in range(total):
                await bus.publish(report(number))

        async def disturb(client: Client) -> None:
            for done in (20, 60, 120):
                await until(lambda done=done: len(ledger.effects()) >= done, 30)
                if done == 60:
                    await client.flushall()
                server.signal(9)  # type: ignore[arg-type]
                await server.wait()
                await server.start()

        async with consuming(bus, "field_reports", "simic", ledger, consumer="s"):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(produce())
                tasks.create_task(disturb(bus._client))
            await until(lambda: len(spool) == 0, 30)
    assert ledger.effects() == [f"r{number}" for number in range(total)]


async def test_the_server_losing_its_last_second_is_noticed_and_made_good(
    server: EmbeddedServer, spool: Spool, client: Client
) -> None:
    """A restart may lose entries though the epoch key is there; the run id gives it away."""
    async with make_bus(server, spool=spool) as bus:
        await bus.publish(report(1))
        await until(lambda: _length(client, 1))
        await client.xtrim(STREAM, maxlen=0, approximate=False)  # as if the file's end was lost
        server.signal(9)  # type: ignore[arg-type]
        await server.wait()
        await server.start()
        inbox = Inbox()
        async with consuming(bus, "field_reports", "simic", inbox):
            assert await inbox.has(1) == [report(1)]
            await until(lambda: len(spool) == 0)


async def test_an_emptied_server_gets_everything_unacknowledged_again_in_order(
    server: EmbeddedServer, spool: Spool, client: Client
) -> None:
    async with make_bus(server, spool=spool) as bus:
        for number in range(10):
            await bus.publish(report(number))
        await until(lambda: _length(client, 10))
        await client.flushall()
        await until(lambda: _length(client, 10))
        inbox = Inbox()
        async with consuming(bus, "field_reports", "simic", inbox):
            messages = await inbox.has(10)
        assert messages[:10] == [report(number) for number in range(10)]
        assert bus.metrics.value("esper_oona_spool_republished_total") >= 10


async def test_a_lost_required_group_is_no_acknowledgement(
    server: EmbeddedServer, spool: Spool, client: Client
) -> None:
    async with make_bus(server, spool=spool) as bus:
        await bus.publish(report(1))
        await until(lambda: _length(client, 1))
        await client.xgroup_destroy(STREAM, "simic")
        await until(lambda: _length(client, 2))  # it was published again
        assert len(spool) == 1


async def test_a_spool_outlives_its_process(server: EmbeddedServer, tmp_path: Path) -> None:
    """A producer killed after `append` returned loses nothing; the next owner carries it."""
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "from esper_async.oona.spool import Spool\n"
        "from esper_async.leyline import Signer, wrap\n"
        "from tests.oona.conftest import KEY, report\n"
        f"spool = Spool(Path({str(tmp_path / 'spool')!r}))\n"
        "for n in range(3):\n"
        "    wire = wrap(report(n), source='child', signer=Signer(KEY))\n"
        f"    spool.append(event_id=str(n), stream={STREAM!r}, topic='field_reports', wire=wire)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], capture_output=True, check=False
    )
    assert done.returncode == -9, done.stderr
    spool = Spool(tmp_path / "spool")
    inbox = Inbox()
    async with (
        make_bus(server, spool=spool) as bus,
        consuming(bus, "field_reports", "simic", inbox),
    ):
        assert await inbox.has(3) == [report(number) for number in range(3)]
        await until(lambda: len(spool) == 0)
    spool.close()


def test_a_spool_has_one_owner_and_keeps_order(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    with pytest.raises(SpoolBusy):
        Spool(tmp_path, patience_s=0.0)
    for name in ("a", "b", "a"):
        first.append(event_id=name, stream="s", topic="t", wire=name.encode())
    entries = first.after(0, 10)
    assert [entry.event_id for entry in entries] == ["a", "b"]
    first.remove([entries[0].seq])
    first.close()
    first.close()
    second = Spool(tmp_path, patience_s=0.0)
    second.append(event_id="c", stream="s", topic="t", wire=b"c")
    assert [entry.event_id for entry in second.after(0, 10)] == ["b", "c"]
    assert [entry.event_id for entry in second.after(entries[1].seq, 10)] == ["c"]
    second.close()


def test_a_spool_that_cannot_be_opened_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as disk:
        disk.setattr(sqlite3, "connect", full)
        with pytest.raises(sqlite3.OperationalError):
            Spool(tmp_path)
    Spool(tmp_path, patience_s=0.0).close()


async def test_the_janitor_never_trims_what_a_required_group_has_not_acknowledged(
    server: EmbeddedServer, spool: Spool, client: Client
) -> None:
    janitor = Janitor(client, settings=FAST, metrics=BusMetrics())
    async with make_bus(server, spool=spool) as bus:
        for number in range(6):
            await bus.publish(report(number))
        await until(lambda: _length(client, 6))
    rows = await client.xrange(STREAM)
    ids = [row[0] for row in rows]
    await janitor.sweep()
    assert await client.xlen(STREAM) == 6  # nobody has read anything
    await client.xreadgroup("simic", "c", {STREAM: ">"}, count=4)
    await client.xack(STREAM, "simic", ids[0], ids[1], ids[3])
    await janitor.sweep()
    left = [row[0] for row in await client.xrange(STREAM)]
    assert left == ids[2:]  # the oldest unacknowledged and all behind it
    await client.xgroup_destroy(STREAM, "simic")
    await janitor.sweep()
    assert await client.xlen(STREAM) == 4  # a required group that is gone acknowledges nothing


async def test_a_consumer_that_comes_back_while_it_is_forgotten_loses_nothing(
    client: Client, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = normal_lane("alerts")
    await bus.publish(alert(1))
    await client.xreadgroup("nissa", "old", {stream: ">"})
    await client.xack(stream, "nissa", (await client.xrange(stream))[0][0])
    looked_up = client.xinfo_consumers

    async def then_it_comes_back(*which: str) -> Any:
        rows = await looked_up(*which)
        await bus.publish(alert(2))
        await client.xreadgroup("nissa", "old", {stream: ">"})
        return rows

    monkeypatch.setattr(client, "xinfo_consumers", then_it_comes_back)
    settings = dataclasses.replace(FAST, idle_consumer_s=-1.0)
    await Janitor(client, settings=settings, metrics=BusMetrics()).sweep()
    inbox = Inbox()
    async with consuming(bus, "alerts", "nissa", inbox):
        assert await inbox.has(1) == [alert(2)]


async def test_conservative_mode_is_seen_and_ends_without_anybody_publishing(
    client: Client, bus: Bus
) -> None:
    metrics = BusMetrics()
    settings = dataclasses.replace(FAST, high_water=3, low_water=2)
    janitor = Janitor(client, settings=settings, metrics=metrics)
    for number in range(4):
        await bus.publish(alert(number))
    await janitor.sweep()
    assert janitor.conservative == ["alerts"]
    assert metrics.value("esper_oona_conservative_mode", topic="alerts") == 1.0
    inbox = Inbox()
    async with consuming(bus, "alerts", "nissa", inbox):
        await inbox.has(4)
    await janitor.sweep()
    assert janitor.conservative == []
    assert metrics.value("esper_oona_conservative_mode", topic="alerts") == 0.0


async def test_the_spools_depth_is_told_while_redis_is_away(
    server: EmbeddedServer, spool: Spool
) -> None:
    await server.stop()
    async with make_bus(server, spool=spool) as bus:
        for number in range(5):
            await bus.publish(report(number))
        shown = functools.partial(bus.metrics.value, "esper_oona_spool_depth", producer="test")
        await until(lambda: shown() == 5.0)


async def test_the_janitor_respects_optional_groups_up_to_their_lag_limit(
    bus: Bus, client: Client
) -> None:
    stream = normal_lane("alerts")
    metrics = BusMetrics()
    settings = dataclasses.replace(FAST, optional_lag_limit=3)
    janitor = Janitor(client, settings=settings, metrics=metrics)
    for number in range(3):
        await bus.publish(alert(number))
    await client.xgroup_create(stream, "dashboard", id="0")
    rows = await client.xreadgroup("nissa", "c", {stream: ">"})
    await client.xack(stream, "nissa", *[row[0] for row in rows[0][1]])
    await janitor.sweep()
    assert await client.xlen(stream) == 3  # the dashboard has still to read them
    await bus.publish(alert(3))
    await janitor.sweep()
    assert [row["name"] for row in await client.xinfo_groups(stream)] == [b"nissa"]
    evicted = metrics.value("esper_oona_groups_evicted_total", topic="alerts", group="dashboard")
    assert evicted == 1
    assert await client.xlen(stream) == 1


async def test_old_telemetry_expires_and_its_number_is_bounded(client: Client) -> None:
    stream = normal_lane("telemetry")
    seconds, _ = await client.time()
    old = f"{(seconds - 3_700) * 1000}-0"
    await client.xadd(stream, {"e": "x"}, id=old)
    for _ in range(5):
        await client.xadd(stream, {"e": "x"})
    settings = dataclasses.replace(FAST, expendable_entries=3)
    await Janitor(client, settings=FAST, metrics=BusMetrics()).sweep()
    assert await client.xlen(stream) == 5
    await Janitor(client, settings=settings, metrics=BusMetrics()).sweep()
    assert await client.xlen(stream) == 3


def test_an_effect_and_its_event_id_stand_or_fall_together(ledger: Ledger) -> None:
    database = ledger.database
    with pytest.raises(ZeroDivisionError), database:
        assert first_time(database, "e1", group="simic")
        _ = 1 / 0
    with database:
        assert first_time(database, "e1", group="simic")
        assert not first_time(database, "e1", group="simic")
        assert first_time(database, "e1", group="nissa")


def test_recording_an_event_outside_a_transaction_is_refused() -> None:
    database = sqlite3.connect(":memory:", isolation_level=None)
    prepare_effects(database)
    with pytest.raises(RuntimeError, match="transaction"):
        first_time(database, "e1", group="simic")
    database.close()


async def test_a_spool_cleared_on_redis_answer_would_lose_messages(
    server: EmbeddedServer, spool: Spool, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant of the promise: forgetting a message at XADD's reply loses it with the server."""
    original = Courier._publish

    async def hasty(self: Courier, client: Client, batch: list[object]) -> None:
        await original(self, client, batch)  # type: ignore[arg-type]
        spool.remove([entry.seq for entry in batch if entry.seq in self._sent])  # type: ignore[attr-defined]

    monkeypatch.setattr(Courier, "_publish", hasty)
    async with make_bus(server, spool=spool) as bus:
        await bus.publish(report(1))
        await until(lambda: len(spool) == 0)
        await client.flushall()
        await bus.publish(report(2))
        await until(lambda: _length(client, 1))
    (entry,) = await client.xrange(STREAM)  # the first report is gone for good
    assert unwrap(entry[1][b"e"], signer=Signer(KEY))[0] == report(2)
