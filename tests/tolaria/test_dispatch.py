"""How long a field report takes from its spool to the bus is measured where Redis answers."""

import asyncio
from pathlib import Path

from esper_async.leyline import DecisionRecord, EventEnvelope, FieldReport
from esper_async.oona import Bridge
from esper_async.oona.spool import Spool
from esper_async.testing.redis import running_redis
from esper_async.tolaria.dispatch import LATENCY, watch_dispatch
from tests.oona.conftest import until

KEY = b"k" * 32
COUNT = "esper_tamiyo_field_report_dispatch_latency_seconds_count"


def report(number: int) -> FieldReport:
    return FieldReport(version=1, report_id=f"r{number}", outcome=2, run_id="r1")


async def test_each_report_is_measured_once_and_other_messages_are_not(tmp_path: Path) -> None:
    async with running_redis(tmp_path / "redis") as server:
        bridge = Bridge(server.url, tmp_path / "spool", KEY, "tolaria/r1")
        watch_dispatch(bridge, "r1")
        bridge.start()
        for number in (1, 2, 2):
            bridge.spool(report(number))
        bridge.spool(DecisionRecord(version=1, decision_id="d1", run_id="r1"))
        published = "esper_oona_published_total"
        await until(lambda: bridge.metrics.value(published, topic="decisions") == 1)
        assert bridge.metrics.value(COUNT, run="r1") == 2
        told = [each for each in bridge.metrics.registry.observations if each[0] == LATENCY]
        assert all(0.0 <= value < 30_000 for _, value, _ in told)
        await asyncio.to_thread(bridge.close, 0.1)


async def test_a_report_that_waits_on_disk_counts_from_its_spooling(tmp_path: Path) -> None:
    first = Bridge("redis://127.0.0.1:1/0", tmp_path / "spool", KEY, "tolaria/r1")
    first.spool(report(1))
    first.close(0.0)
    spool = Spool(tmp_path / "spool")
    (left,) = spool.after(0, 2)
    spool.close()
    spooled_at = EventEnvelope.FromString(left.wire).created_at
    async with running_redis(tmp_path / "redis") as server:
        bridge = Bridge(server.url, tmp_path / "spool", KEY, "tolaria/r1")
        watch_dispatch(bridge, "r1", now=lambda: spooled_at + 3600.0)
        bridge.start()
        await until(lambda: bridge.metrics.value(COUNT, run="r1") == 1)
        [(_, value, labels)] = [e for e in bridge.metrics.registry.observations if e[0] == LATENCY]
        assert (round(value), labels) == (3_600_000, {"run": "r1"})
        await asyncio.to_thread(bridge.close, 0.1)
