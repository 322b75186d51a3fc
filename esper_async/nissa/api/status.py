"""The state of the system in one answer, and its figures in another."""

import asyncio
from typing import Any

from aiohttp import web

from esper_async.nissa.context import NissaContext
from esper_async.nissa.reading import levels
from esper_async.nissa.route import Call, Route
from esper_async.nissa.schemas import ref
from esper_async.tamiyo.percentile import percentile

_CONSERVATIVE = ("oona.conservative_mode", "tezzeret.conservative_mode", "tamiyo.conservative_mode")


def status_of(context: NissaContext) -> dict[str, Any]:
    """What `/api/status` answers and the stream repeats."""
    system = context.system()
    services = system["services"]
    found = levels(context.registry, "oona.queue.depth", *_CONSERVATIVE)
    modes = {name.partition(".")[0] for name in _CONSERVATIVE if _any_set(found.get(name))}
    cut_back = {
        n for n, facts in services.items() if (facts.get("detail") or {}).get("conservative")
    }
    return {
        "status": system["status"],
        "services": services,
        "breakers": {
            name: facts["breakers"] for name, facts in services.items() if facts.get("breakers")
        },
        "queue_lag": {
            "/".join(value for _, value in sample.labels) or "all": sample.value
            for sample in found.get("oona.queue.depth", ())
        },
        "conservative_modes": sorted(modes | cut_back),
        "alerts": [alert.to_json() for alert in context.alerts.active()],
        "versions": dict(context.versions),
        "uptime_s": round(context.clock.monotonic() - context.started_at, 3),
        "time": context.clock.time(),
    }


async def status(call: Call) -> web.Response:
    """Breakers, queues, alerts, conservative modes, versions, uptime."""
    return web.json_response(status_of(call.context))


async def summary(call: Call) -> web.Response:
    """Throughput and boundary times over the runs that are going on."""
    rates, times = [], []
    for picture in call.context.hub.live():
        if picture.rows and picture.state == "running":
            rate = picture.rows[-1]["samples_per_s"]
            rates += [] if rate is None else [rate]
        times += [row["boundary_ms"]["total"] for row in picture.rows if row["boundary_ms"]]
    return web.json_response(
        {
            "throughput_samples_per_s": sum(rates) if rates else None,
            "boundary_ms": {"p50": percentile(times, 0.5), "p99": percentile(times, 0.99)},
            "error_budgets": [budget.to_json() for budget in call.context.budgets()] or None,
            "top_alerts": [alert.to_json() for alert in call.context.alerts.active()[:5]],
        }
    )


async def metrics(call: Call) -> web.Response:
    """Every metric, for Prometheus; OpenMetrics if asked for."""
    accept = call.request.headers.get("Accept", "")
    # in a thread: a scrape of thousands of series would hold up everybody else
    body, content_type = await asyncio.to_thread(call.context.registry.exposition, accept)
    return web.Response(body=body, headers={"Content-Type": content_type})


def _any_set(samples: Any) -> bool:
    return any(sample.value > 0 for sample in samples or ())


ROUTES = (
    Route(
        method="GET", path="/metrics", handler=metrics, text="Every metric, for Prometheus.",
        answers={200: None}, media="text/plain",
    ),
    Route(
        method="GET", path="/api/status", handler=status,
        text="Breakers, queues, alerts, conservative modes, versions, uptime.",
        answers={200: ref("Status")},
    ),
    Route(
        method="GET", path="/api/metrics/summary", handler=summary,
        text="Throughput and boundary times of the runs that are going on, error budgets, the "
        "gravest alerts. `error_budgets` is null before the first evaluation.",
        answers={200: ref("Summary")},
    ),
)  # fmt: skip
