"""How long field reports take from a run's disk to the bus."""

import time
from collections.abc import Callable

from esper_async.leyline import TOPICS, EventEnvelope
from esper_async.oona.bridge import Bridge
from esper_async.oona.spool import SpoolEntry

LATENCY = "tamiyo.field_report.dispatch_latency_ms"
_REPORTS = TOPICS["field_reports"].name


def watch_dispatch(bridge: Bridge, run_id: str, now: Callable[[], float] = time.time) -> None:
    """Measure each field report of a run when Redis has taken it; say so before `start`.

    It counts from the spooling, at the boundary that closes the report's window. What a process
    that died has left on disk counts from then, too. The bridge tells it with its own metrics.
    """
    text = "From the spooling of a report to Redis's answer."
    latency = bridge.metrics.registry.histogram(LATENCY, text, ["run"]).bound(run=run_id)

    def carried(entry: SpoolEntry) -> None:
        if entry.topic == _REPORTS:
            envelope = EventEnvelope.FromString(entry.wire)
            latency.observe(1e3 * max(0.0, now() - envelope.created_at))

    bridge.watch_spool(carried)
