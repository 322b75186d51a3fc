"""A route as data: what it does, takes and answers. Serving and describing both read it.

`guarded` is what stands between a request and its handler: is Nissa up, may this caller do this,
is the body small and JSON, are the parameters what they claim to be. A handler sees checked values
only, and whatever it raises becomes a problem document.
"""

import json
import math
import re
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog
from aiohttp import web

from esper_async.nissa.context import NissaContext
from esper_async.nissa.problems import Problem
from esper_async.nissa.rate_limit import RateLimit
from esper_async.oona.errors import FAULTS, BusUnavailable
from esper_async.runtime.errors import BreakerOpen
from esper_async.runtime.strict_model import ConfigurationError
from esper_async.tamiyo.errors import UnknownRunError
from esper_async.tolaria.runs import RunConflictError, RunNotFoundError

log = structlog.get_logger(__name__)
BODY_LIMIT_BYTES = 64 * 1024
Json = Mapping[str, Any]
Handler = Callable[["Call"], Awaitable[web.StreamResponse]]

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter with its bounds and what it is when it is absent."""

    name: str
    text: str
    kind: Literal["string", "integer", "number"] = "string"
    default: str | float | None = None
    low: float = 0
    high: float = 1e15
    choices: tuple[str, ...] = ()
    pattern: str = ""
    required: bool = False

    def parse(self, raw: str | None) -> str | float | None:
        """Return the value; raises Problem 400 that names the parameter."""
        if raw is None:
            if self.required:
                raise Problem(400, f"{self.name} is missing: {self.text}")
            return self.default
        if self.choices and raw not in self.choices:
            raise Problem(400, f"{self.name}={raw!r}: expected one of {', '.join(self.choices)}")
        if self.pattern and not re.match(self.pattern, raw):
            raise Problem(400, f"{self.name}={raw[:80]!r}: expected the form {self.pattern}")
        if self.kind == "string":
            return raw
        try:
            value = int(raw) if self.kind == "integer" else float(raw)
        except ValueError:
            raise Problem(400, f"{self.name}={raw!r}: expected a {self.kind}") from None
        if not math.isfinite(value) or not self.low <= value <= self.high:
            raise Problem(400, f"{self.name}={raw}: expected {self.low:g} to {self.high:g}")
        return value


LIMIT = Parameter("limit", "At most so many items.", "integer", 100, 1, 1000)
AFTER = Parameter(
    "after", "Only items after this one; the `next` link of a page has it.", "integer", 0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path.

    `answers` maps each status of success to the schema of its body, or None for no JSON body.
    `refusals` are the further statuses its handler may answer, each as a problem document.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: Handler
    text: str
    answers: Mapping[int, Json | None]
    refusals: tuple[int, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    body: Json | None = None
    change: bool = False
    open: bool = False
    media: str = "application/json"


@dataclass(frozen=True, slots=True)
class Call:
    """A request that has passed the guard."""

    request: web.Request
    context: NissaContext
    query: Mapping[str, Any]
    body: Mapping[str, Any] = field(default_factory=dict)
    who: str = ""

    def path(self, name: str) -> str:
        """A part of the path."""
        return self.request.match_info[name]


def guarded(
    route: Route, context: NissaContext
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return the aiohttp handler that serves `route`."""

    async def serve(request: web.Request) -> web.StreamResponse:
        started = context.clock.monotonic()
        try:
            response = await _answer(route, context, request)
        except Problem as problem:
            count_refusal(context, problem)
            response = problem.response()
        except web.HTTPException:
            raise
        except Exception:  # shown to the caller as 500, and logged with its stack
            log.exception("request_failed", method=request.method, path=request.path)
            response = Problem(500, "A defect of this service; its log has the details.").response()
        if not response.prepared:
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            # a stream is prepared by now, and lasts for as long as its reader wants it
            elapsed_ms = (context.clock.monotonic() - started) * 1000.0
            context.metrics.requests.observe(elapsed_ms, route=f"{route.method} {route.path}")
        return response

    return serve


async def _answer(route: Route, context: NissaContext, request: web.Request) -> web.StreamResponse:
    who = _admit(route, context, request)
    query = {item.name: item.parse(request.query.get(item.name)) for item in route.parameters}
    body = await _body(request) if route.body is not None else {}
    try:
        return await route.handler(Call(request, context, query, body, who))
    except (UnknownRunError, RunNotFoundError) as error:
        raise Problem(404, str(error)) from error
    except RunConflictError as error:
        raise Problem(409, str(error)) from error
    except ConfigurationError as error:
        raise Problem(422, str(error)) from error
    except (*FAULTS, BusUnavailable, BreakerOpen, sqlite3.Error) as error:
        log.warning("request_met_a_fault", path=request.path, error=str(error))
        raise Problem(
            503,
            f"A part this needs is away ({type(error).__name__}); /readyz shows which. Try again.",
            headers={"Retry-After": "5"},
        ) from error


def count_refusal(context: NissaContext, problem: Problem) -> None:
    """Count a request that was refused, by its status."""
    context.metrics.refused.add(code=str(problem.status))


def _admit(route: Route, context: NissaContext, request: web.Request) -> str:
    """Let the caller pass or raise; return who it is, for records."""
    client = request.remote or "unknown"
    if route.open:
        return client
    try:
        credential = context.access.admit(request, change=route.change)
    except Problem:
        if route.change:
            _spend(context.refusals, client)
        raise
    if route.change:
        _spend(context.changes, client)
    return f"{'page' if credential == 'cookie' else credential}@{client}"


def _spend(budget: RateLimit, client: str) -> None:
    wait_s = budget.take(client)
    if wait_s > 0:
        seconds = math.ceil(wait_s)
        raise Problem(
            429,
            f"At most {budget.limit} changes a minute; try again in {seconds} s.",
            headers={"Retry-After": str(seconds)},
        )


async def _body(request: web.Request) -> Mapping[str, Any]:
    """Read a small JSON object; an absent body is an empty one."""
    if (request.content_length or 0) > BODY_LIMIT_BYTES:
        raise _too_large()
    raw = bytearray()
    async for chunk in request.content.iter_any():
        raw += chunk
        if len(raw) > BODY_LIMIT_BYTES:
            raise _too_large()
    if not raw:
        return {}
    if request.content_type != "application/json":
        raise Problem(415, f"Send application/json, not {request.content_type}.")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"The body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise Problem(422, f"The body must be a JSON object, not {type(body).__name__}.")
    return body


def _too_large() -> Problem:
    return Problem(
        413,
        f"The body is larger than {BODY_LIMIT_BYTES // 1024} KiB.",
        headers={"Connection": "close"},
    )


def page_of(call: Call, items: list[Any], *, key: str = "seq") -> web.Response:
    """Answer with the items after `after`, at most `limit`, and a link to the next page.

    `items` are in rising order of `key`.
    """
    after, limit = call.query["after"], call.query["limit"]
    rest = [item for item in items if item[key] > after]
    response = web.json_response(rest[:limit])
    if len(rest) > limit:
        url = call.request.rel_url.update_query({"after": str(rest[limit - 1][key])})
        response.headers["Link"] = f'<{url}>; rel="next"'
    return response
