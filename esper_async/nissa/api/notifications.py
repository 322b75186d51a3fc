"""Messages about alerts: what was sent, what waits, and the dead, which can be sent again."""

import asyncio

from aiohttp import web

from esper_async.nissa.problems import Problem
from esper_async.nissa.route import LIMIT, Call, Parameter, Route
from esper_async.nissa.schemas import array, ref

_STATES = ("waiting", "sent", "dead")


async def list_notifications(call: Call) -> web.Response:
    """Messages, newest first."""
    found = await asyncio.to_thread(
        call.context.outbox.newest, call.query["state"], limit=call.query["limit"]
    )
    return web.json_response([notice.to_json() for notice in found])


async def replay(call: Call) -> web.Response:
    """Send a dead message again."""
    number = _number(call)
    if not await asyncio.to_thread(call.context.outbox.replay, number, call.context.clock.time()):
        raise _unknown(number)
    return web.Response(status=202)


async def purge(call: Call) -> web.Response:
    """Throw a dead message away."""
    number = _number(call)
    if not await asyncio.to_thread(call.context.outbox.purge, number):
        raise _unknown(number)
    return web.Response(status=204)


def _number(call: Call) -> int:
    text = call.path("notification")
    if not (text.isascii() and text.isdecimal()) or len(text) > 15:
        raise _unknown(text)
    return int(text)


def _unknown(number: int | str) -> Problem:
    return Problem(
        404, f"No dead message has the id {number!r}; see /api/notifications?state=dead."
    )


ROUTES = (
    Route(
        method="GET", path="/api/notifications", handler=list_notifications,
        text="Messages about alerts, newest first: to which channel, and what came of them.",
        answers={200: array(ref("Notification"))},
        parameters=(Parameter("state", "Only in this state.", choices=_STATES), LIMIT),
    ),
    Route(
        method="POST", path="/api/notifications/{notification}/replay", handler=replay,
        text="Send a dead message again.", answers={202: None}, refusals=(404,), change=True,
    ),
    Route(
        method="DELETE", path="/api/notifications/{notification}", handler=purge,
        text="Throw a dead message away.", answers={204: None}, refusals=(404,), change=True,
    ),
)  # fmt: skip
