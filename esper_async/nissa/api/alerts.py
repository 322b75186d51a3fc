"""Alerts: active and recent, acknowledged, silenced."""

from typing import Any

from aiohttp import web

from esper_async.nissa.problems import Problem
from esper_async.nissa.route import Call, Route
from esper_async.nissa.schemas import array, ref

_LONGEST_SILENCE_S = 7 * 86_400
SILENCE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "seconds": {"type": "number", "exclusiveMinimum": 0, "maximum": _LONGEST_SILENCE_S}
    },
    "required": ["seconds"],
}
ACKNOWLEDGEMENT: dict[str, Any] = {
    "type": "object",
    "properties": {"by": {"type": "string", "maxLength": 100}},
}


async def list_alerts(call: Call) -> web.Response:
    """Active alerts, then those resolved of late."""
    return web.json_response([alert.to_json() for alert in call.context.alerts.all()])


async def acknowledge(call: Call) -> web.Response:
    """Record that somebody has seen an alert."""
    by = call.body.get("by", call.who)
    if not isinstance(by, str) or len(by) > 100:
        raise Problem(422, '"by" is a name of at most 100 characters.')
    return _answer(call, lambda alert: call.context.alerts.acknowledge(alert, by or call.who))


async def silence(call: Call) -> web.Response:
    """Keep an alert quiet for a while."""
    seconds = call.body.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise Problem(422, 'Send {"seconds": N}.')
    if not 0 < seconds <= _LONGEST_SILENCE_S:
        raise Problem(422, f"seconds={seconds}: expected up to {_LONGEST_SILENCE_S}.")
    return _answer(call, lambda alert: call.context.alerts.silence(alert, seconds))


def _answer(call: Call, change: Any) -> web.Response:
    alert_id = call.path("alert")
    try:
        alert = change(alert_id)
    except KeyError as error:
        raise Problem(404, f"No active alert has the id {alert_id!r}; see /api/alerts.") from error
    return web.json_response(alert.to_json())


ROUTES = (
    Route(
        method="GET", path="/api/alerts", handler=list_alerts,
        text="Active alerts, the gravest first, then recent ones.",
        answers={200: array(ref("Alert"))},
    ),
    Route(
        method="POST", path="/api/alerts/{alert}/ack", handler=acknowledge,
        text="Acknowledge an alert.", answers={200: ref("Alert")}, refusals=(404, 422),
        body=ACKNOWLEDGEMENT, change=True,
    ),
    Route(
        method="POST", path="/api/alerts/{alert}/silence", handler=silence,
        text="Silence an alert.", answers={200: ref("Alert")}, refusals=(404, 422),
        body=SILENCE, change=True,
    ),
)  # fmt: skip
