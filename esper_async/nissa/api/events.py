"""Searching the events."""

import asyncio

from aiohttp import web

from esper_async.nissa.event_store import LEVELS, Query
from esper_async.nissa.route import LIMIT, Call, Parameter, Route
from esper_async.nissa.schemas import array, ref


async def search(call: Call) -> web.Response:
    """Matching events, newest first."""
    asked = call.query
    query = Query(
        words=asked["q"],
        level=asked["level"],
        source=asked["source"],
        since=asked["since"],
        before=asked["before"],
        limit=asked["limit"],
    )
    found = await asyncio.to_thread(call.context.events.search, query)
    answer = web.json_response(found)
    if len(found) == query.limit:
        url = call.request.rel_url.update_query({"before": str(found[-1]["id"])})
        answer.headers["Link"] = f'<{url}>; rel="next"'
    return answer


ROUTES = (
    Route(
        method="GET", path="/api/events", handler=search,
        text="Events whose words begin with all those given, newest first.",
        answers={200: array(ref("Event"))},
        parameters=(
            Parameter("q", "Words to look for.", default=""),
            Parameter("level", "At least this grave.", default="info", choices=LEVELS),
            Parameter("source", "Only from this part.", default=""),
            Parameter("since", "Only after this Unix time.", "number"),
            Parameter("before", "Only older than this id.", "integer"),
            LIMIT,
        ),
    ),
)  # fmt: skip
