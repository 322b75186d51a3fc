"""All of Nissa's routes, ready for a listener.

The supervisor's listener mounts `build_routes(context)` while Nissa runs; every route guards itself
(access, limits, errors as problem documents). `build_app` serves them alone, as tests do.
"""

from aiohttp import web
from aiohttp.typedefs import Handler

from esper_async.nissa.api import (
    alerts,
    assets,
    dead_letters,
    events,
    history,
    metrics,
    notifications,
    page,
    runs,
    status,
    story,
    stream,
)
from esper_async.nissa.context import NissaContext
from esper_async.nissa.openapi import describe
from esper_async.nissa.problems import Problem
from esper_async.nissa.route import HEADERS, Call, Route, guarded
from esper_async.nissa.schemas import MAP


async def _openapi(call: Call) -> web.Response:
    version = call.context.versions.get("esper", "unknown")
    return web.json_response(describe(ROUTES, version))


ROUTES: tuple[Route, ...] = (
    *status.ROUTES,
    *runs.ROUTES,
    *history.ROUTES,
    *story.ROUTES,
    *assets.ROUTES,
    *events.ROUTES,
    *alerts.ROUTES,
    *notifications.ROUTES,
    *metrics.ROUTES,
    *dead_letters.ROUTES,
    *stream.ROUTES,
    *page.ROUTES,
    Route(
        method="GET", path="/api/openapi.json", handler=_openapi, text="This document.",
        answers={200: MAP},
    ),
)  # fmt: skip


def build_routes(context: NissaContext) -> list[web.RouteDef]:
    """Return the routes to add to the listener's application."""
    return [
        web.route(route.method, route.path, guarded(route, context))
        if route.method != "GET"
        else web.get(route.path, guarded(route, context), allow_head=True)
        for route in ROUTES
    ]


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn plain HTTP errors (no such path, wrong method) into problem documents."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        kept = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        detail = {
            404: f"There is nothing at {request.path}; /api/openapi.json lists what there is.",
            405: f"{request.method} is not for {request.path}; it takes {kept.get('Allow', '')}.",
        }
        text = detail.get(error.status, error.reason)
        return Problem(error.status, text, headers={**HEADERS, **kept}).response()


def build_app(context: NissaContext) -> web.Application:
    """An application with Nissa's routes alone."""
    app = web.Application(middlewares=[problems])
    app.add_routes(build_routes(context))
    return app
