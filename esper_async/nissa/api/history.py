"""What happened in a run, oldest first, a page at a time."""

from typing import Any

from aiohttp import web

from esper_async.nissa.route import AFTER, LIMIT, Call, Route, page_of
from esper_async.nissa.run_list import find_run
from esper_async.nissa.schemas import array, ref
from esper_async.tamiyo.errors import UnknownRunError
from esper_async.tamiyo.picture import RunPicture


async def epochs(call: Call) -> web.Response:
    """Every boundary with its metrics."""
    return page_of(call, (await _told(call)).rows)


async def decisions(call: Call) -> web.Response:
    """Every decision with its reason."""
    return page_of(call, (await _told(call)).decisions)


async def field_reports(call: Call) -> web.Response:
    """What each command brought."""
    return page_of(call, (await _told(call)).field_reports)


async def _told(call: Call) -> RunPicture:
    """The run's picture, an empty one for a run that waits for its turn."""
    run_id = call.path("run")
    if call.context.hub.knows(run_id):
        return await call.context.hub.picture(run_id)
    if find_run(call.context.runs, run_id) is None:
        raise UnknownRunError(run_id)
    return RunPicture(run_id)


_PAGED: dict[str, Any] = {"parameters": (LIMIT, AFTER), "refusals": (404,)}

ROUTES = (
    Route(
        method="GET", path="/api/runs/{run}/epochs", handler=epochs,
        text="The boundaries of a run: metrics, times, seeds.",
        answers={200: array(ref("Boundary"))}, **_PAGED,
    ),
    Route(
        method="GET", path="/api/runs/{run}/decisions", handler=decisions,
        text="The decisions of a run with their reasons.",
        answers={200: array(ref("Decision"))}, **_PAGED,
    ),
    Route(
        method="GET", path="/api/runs/{run}/field-reports", handler=field_reports,
        text="What each command of a run brought.",
        answers={200: array(ref("FieldReport"))}, **_PAGED,
    ),
)  # fmt: skip
