"""The WebSocket: a snapshot, then changes."""

from typing import Any

from aiohttp import web

from esper_async.nissa.api.status import status_of
from esper_async.nissa.problems import Problem
from esper_async.nissa.route import Call, Route
from esper_async.nissa.run_list import list_runs
from esper_async.nissa.stream import TooManyReadersError


async def stream(call: Call) -> web.StreamResponse:
    """Serve the stream until either side ends it."""
    if call.request.headers.get("Upgrade", "").lower() != "websocket":
        raise Problem(426, "This is a WebSocket.", headers={"Upgrade": "websocket"})
    try:
        return await call.context.stream.serve(call.request, lambda: snapshot(call))
    except TooManyReadersError as error:
        raise Problem(
            503, "The stream takes no more readers now.", headers={"Retry-After": "5"}
        ) from error


def snapshot(call: Call) -> dict[str, Any]:
    """Where everything stands when a reader joins."""
    context = call.context
    return {
        "type": "snapshot",
        "time": context.clock.time(),
        "status": status_of(context),
        "runs": list_runs(context.hub, context.runs),
    }


ROUTES = (
    Route(
        method="GET", path="/ws/stream", handler=stream,
        text="WebSocket: a snapshot, then changes. Slow readers are dropped.",
        answers={101: None}, refusals=(426,),
    ),
)  # fmt: skip
