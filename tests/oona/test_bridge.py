"""A child's bridge: its caller never waits for Redis, and nothing durable is lost."""

import asyncio
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from esper_async import leyline
from esper_async.leyline import Refused
from esper_async.oona import Bridge, BridgeReport, Bus, EmbeddedServer
from esper_async.oona.connection import Client
from esper_async.oona.outbox import Outbox, Parcel
from esper_async.oona.streams import normal_lane
from tests.oona.conftest import FAST, KEY, Inbox, alert, report, request, telemetry, until
from tests.oona.test_bus import consuming

DROPPED = "esper_oona_publish_dropped_total"


def make_bridge(server: EmbeddedServer, tmp_path: Path, **options: int) -> Bridge:
    return Bridge(server.url, tmp_path / "child", KEY, "run-1", settings=FAST, **options)


async def test_offered_and_spooled_messages_arrive(
    server: EmbeddedServer, bus: Bus, tmp_path: Path
) -> None:
    points, reports = Inbox(), Inbox()
    bridge = make_bridge(server, tmp_path).start()
    async with (
        consuming(bus, "telemetry", "nissa", points, optional=True),
        consuming(bus, "field_reports", "simic", reports),
    ):
        for number in range(50):
            assert bridge.offer(telemetry(number))
        bridge.spool(report(1))
        assert await points.has(50) == [telemetry(number) for number in range(50)]
        assert await reports.has(1) == [report(1)]
        closed = await _close(bridge)
    assert points.envelopes[0].source == "run-1"
    assert [envelope.sequence for envelope in points.envelopes[:50]] == list(range(1, 51))
    assert closed.clean
    assert (closed.offered, closed.published, closed.spooled) == (50, 50, 1)


async def _close(bridge: Bridge, deadline_s: float = 5.0) -> BridgeReport:
    return await asyncio.to_thread(bridge.close, deadline_s)


async def test_without_redis_offers_are_bounded_and_counted(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    await server.stop()
    bridge = make_bridge(server, tmp_path, queue_entries=100).start()
    accepted = sum(bridge.offer(telemetry(number)) for number in range(300))
    closed = await _close(bridge, 0.2)
    assert accepted == 100
    assert closed.dropped == {"low": 300}  # 200 refused, 100 never sent
    assert closed.published == 0
    assert not closed.clean


async def test_a_topic_that_nobody_reads_takes_no_more_of_a_child_than_its_bound(
    server: EmbeddedServer, client: Client, tmp_path: Path
) -> None:
    settings = replace(FAST, queue_bound=8, high_water=6, low_water=2, depth_refresh_s=0.0)
    bridge = Bridge(server.url, tmp_path / "child", KEY, "run-1", settings=settings).start()
    for number in range(50):
        assert bridge.offer(request(number))  # taken: whoever offers never waits
    await until(lambda: bridge.metrics.value(DROPPED, priority="normal", reason="depth") == 42)
    assert bridge.offer(telemetry(1))  # nobody's: it gives way where another topic is deep
    await until(lambda: bridge.metrics.value(DROPPED, priority="low", reason="depth") == 1)
    closed = await _close(bridge)
    assert await client.xlen(normal_lane("kernel_requests")) == 8
    assert (closed.published, closed.dropped) == (8, {"normal": 42, "low": 1})
    assert not closed.clean


async def test_a_childs_figures_reach_the_supervisor_and_are_added_up(
    server: EmbeddedServer, bus: Bus, tmp_path: Path
) -> None:
    packets = Inbox()
    settings = replace(FAST, metrics_every_s=0.05)
    bridge = Bridge(server.url, tmp_path / "child", KEY, "run-1", settings=settings).start()
    async with consuming(bus, "telemetry", "nissa", packets, optional=True):
        bridge.spool(report(1))  # nobody acknowledges it
        for number in range(5):
            bridge.offer(request(number))
        await until(lambda: _sums(packets).get(("oona.published", "kernel_requests")) == 5.0)
        for number in range(5, 8):
            bridge.offer(request(number))
        await _close(bridge, 0.1)
        await until(lambda: _sums(packets).get(("oona.published", "kernel_requests")) == 8.0)
    assert _sums(packets)["oona.published", "field_reports"] == 1.0
    assert _sums(packets)["oona.publish.latency_ms", "kernel_requests"] > 0.0
    assert _sums(packets)["oona.spool.depth", "run-1"] == 1.0


def _sums(packets: Inbox) -> dict[tuple[str, str], float]:
    """Add up what was told, by name and first label."""
    sums: Counter[tuple[str, str]] = Counter()
    for packet in packets.messages:
        assert isinstance(packet, leyline.TelemetryPacket)
        for point in packet.points:
            sums[point.name, next(iter(point.labels.values()), "")] += point.value
    return dict(sums)


async def test_what_was_not_acknowledged_at_close_is_left_for_the_next_owner(
    server: EmbeddedServer, bus: Bus, tmp_path: Path
) -> None:
    await server.stop()
    bridge = make_bridge(server, tmp_path).start()
    bridge.spool(report(1))
    bridge.spool(report(1))  # a resumed run repeats itself; it waits once
    closed = await _close(bridge, 0.1)
    assert closed.unacknowledged == 1
    await server.start()
    inbox = Inbox()
    successor = make_bridge(server, tmp_path).start()
    async with consuming(bus, "field_reports", "simic", inbox):
        assert await inbox.has(1) == [report(1)]
        assert (await _close(successor)).clean


async def test_telemetry_waits_out_a_restart(
    server: EmbeddedServer, bus: Bus, tmp_path: Path
) -> None:
    bridge = make_bridge(server, tmp_path).start()
    await server.stop()
    bridge.offer(telemetry(1))
    await server.start()
    inbox = Inbox()
    async with consuming(bus, "telemetry", "nissa", inbox, optional=True):
        assert await inbox.has(1) == [telemetry(1)]
    assert (await _close(bridge)).clean


async def test_a_subscription_calls_back_in_the_bridges_thread(
    server: EmbeddedServer, bus: Bus, tmp_path: Path
) -> None:
    got: list[tuple[object, str]] = []
    bridge = make_bridge(server, tmp_path)
    bridge.subscribe(
        "alerts", "nissa", lambda m, _: got.append((m, threading.current_thread().name))
    )
    bridge.start()
    await bus.publish(alert(1))
    await until(lambda: got)
    assert got == [(alert(1), "oona-bridge")]
    with pytest.raises(RuntimeError, match="before start"):
        bridge.subscribe("alerts", "nissa", lambda m, _: None)
    assert (await _close(bridge)).clean


async def test_each_kind_of_message_has_its_own_way(server: EmbeddedServer, tmp_path: Path) -> None:
    bridge = make_bridge(server, tmp_path).start()
    with pytest.raises(ValueError, match="spool"):
        bridge.offer(report(1))
    with pytest.raises(ValueError, match="offer"):
        bridge.spool(telemetry(1))
    with pytest.raises(Refused):
        bridge.offer(leyline.TelemetryPacket(version=3, packet_id="t"))
    assert (await _close(bridge)).clean
    assert not bridge.offer(telemetry(1))
    with pytest.raises(RuntimeError, match="closed"):
        bridge.spool(report(1))
    assert bridge.close() is bridge.close()


async def test_a_frozen_redis_does_not_hold_the_caller_or_the_close(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    bridge = make_bridge(server, tmp_path).start()
    assert bridge.offer(telemetry(0))
    server.signal(19)  # type: ignore[arg-type]
    started = time.monotonic()
    for number in range(100):
        bridge.offer(telemetry(number))
    bridge.spool(report(1))
    assert time.monotonic() - started < 0.5
    closed = await _close(bridge, 0.1)
    assert closed.unacknowledged == 1
    assert time.monotonic() - started < 3.0
    server.signal(18)  # type: ignore[arg-type]


async def test_a_producer_killed_while_spooling_loses_nothing_it_was_told_is_safe(
    server: EmbeddedServer, bus: Bus, client: Client, tmp_path: Path
) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "from esper_async.oona import Bridge\nfrom tests.oona.conftest import KEY, report\n"
        f"bridge = Bridge({server.url!r}, Path({str(tmp_path / 'child')!r}), KEY, 'x').start()\n"
        "for n in range(20):\n    bridge.spool(report(n))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], capture_output=True, check=False
    )
    assert done.returncode == -9, done.stderr
    await client.delete(normal_lane("field_reports"))  # and Redis loses what it had taken
    inbox = Inbox()
    successor = make_bridge(server, tmp_path).start()
    async with consuming(bus, "field_reports", "simic", inbox):
        assert await inbox.has(20) == [report(number) for number in range(20)]
        assert (await _close(successor)).clean


def test_an_outbox_is_bounded_in_entries_and_bytes_and_counts_every_drop() -> None:
    outbox = Outbox(entries_limit=3, bytes_limit=10)
    parcel = Parcel("s", "t", 1, b"1234")
    assert [outbox.put(parcel) for _ in range(3)] == [True, True, False]  # bytes
    outbox.settle(1)
    small = Parcel("s", "t", 2, b"1")
    assert [outbox.put(small) for _ in range(3)] == [True, True, False]  # entries
    assert outbox.peek(2) == [parcel, small]
    outbox.shut()
    assert not outbox.put(small)
    outbox.abandon()
    assert (outbox.offered, outbox.sent) == (7, 1)
    assert outbox.dropped == {"low": 2, "normal": 4}
    assert outbox.offered == outbox.sent + outbox.dropped.total()
