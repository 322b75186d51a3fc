"""The listener and the four probes: the supervisor's own cell, first started, last stopped.

Other services mount their routes on it while they run; a request that none of them knows is
answered 404 while someone has mounted routes, and 503 while nobody has. Errors are RFC 9457
problems with a `detail` that a person can act on.
"""

import asyncio
import errno
import ipaddress
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web

from esper_async.supervisor.errors import PortTakenError
from esper_async.supervisor.tree import Tree

log = structlog.get_logger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Middleware = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]
_MAX_BODY_BYTES = 2**20
_CLOSE_S = 2.0


def problem(status: int, detail: str, *, headers: dict[str, str] | None = None) -> web.Response:
    """Return an RFC 9457 answer."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return web.Response(
        status=status,
        text=json.dumps(body),
        content_type="application/problem+json",
        headers=headers,
    )


def is_loopback(host: str) -> bool:
    """Whether listening on `host` can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class HttpListener:
    """Listen on `host` and `port` (0: any free one, see `port` once ready)."""

    name = "http"

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._asked_port = port
        self._tree: Tree | None = None
        self._mounted: list[tuple[web.UrlDispatcher, tuple[Middleware, ...]]] = []

    @property
    def url(self) -> str:
        """The address of the page."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"

    def observe(self, tree: Tree) -> None:
        """Tell the probes which tree they speak of."""
        self._tree = tree

    def detail(self) -> dict[str, object]:
        """Return where it listens."""
        return {"url": self.url}

    @contextmanager
    def mounted(
        self, routes: Iterable[web.AbstractRouteDef], *, middlewares: Iterable[Middleware] = ()
    ) -> Iterator[None]:
        """Serve `routes` for as long as the context is open, each behind `middlewares`."""
        table = web.UrlDispatcher()
        table.add_routes(routes)
        entry = (table, tuple(middlewares))
        self._mounted.append(entry)
        try:
            yield
        finally:
            self._mounted.remove(entry)

    async def run(self, ready: Callable[[], None]) -> None:
        """Listen until cancelled; raises PortTakenError when the address cannot be had."""
        application = web.Application(client_max_size=_MAX_BODY_BYTES)
        application.router.add_get("/healthz", self._alive)
        application.router.add_get("/livez", self._alive)
        application.router.add_get("/startupz", self._started)
        application.router.add_get("/readyz", self._ready)
        application.router.add_route("*", "/{path:.*}", self._dispatch)
        runner = web.AppRunner(
            application, access_log=None, handle_signals=False, shutdown_timeout=_CLOSE_S
        )
        await runner.setup()
        try:
            await self._listen(runner)
            ready()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _listen(self, runner: web.AppRunner) -> None:
        site = web.TCPSite(runner, self.host, self._asked_port, reuse_address=True)
        try:
            await site.start()
        except OSError as error:
            raise PortTakenError(_why_not(self.host, self._asked_port, error)) from None
        self.port = runner.addresses[0][1]

    async def _alive(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _started(self, _request: web.Request) -> web.Response:
        if self._tree is not None and self._tree.started:
            return web.json_response({"status": "started"})
        return problem(503, "not everything has started yet; /readyz says what is missing")

    async def _ready(self, _request: web.Request) -> web.Response:
        if self._tree is None:
            return problem(503, "the supervisor has not assembled its services yet")
        body = {"status": self._tree.status, "services": self._tree.snapshot()}
        return web.json_response(body, status=200 if self._tree.ready else 503, dumps=_dumps)

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        if not self._mounted:
            return problem(
                503,
                "the operator's API is down at the moment; /readyz says why",
                headers={"Retry-After": "1"},
            )
        try:
            return await self._answer(request)
        except web.HTTPException as error:
            if error.status < HTTPStatus.BAD_REQUEST:
                raise
            return _as_problem(error, request)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        refusal: web.HTTPException | None = None
        for table, middlewares in self._mounted:
            match = await table.resolve(request)
            if match.http_exception is not None:
                if refusal is None or match.http_exception.status != HTTPStatus.NOT_FOUND:
                    refusal = match.http_exception
                continue
            request.match_info.clear()
            request.match_info.update(match)
            handler: Handler = match.handler
            for middleware in reversed(middlewares):
                handler = _behind(middleware, handler)
            return await handler(request)
        raise refusal or web.HTTPNotFound


def _behind(middleware: Middleware, handler: Handler) -> Handler:
    async def handled(request: web.Request) -> web.StreamResponse:
        return await middleware(request, handler)

    return handled


def _as_problem(error: web.HTTPException, request: web.Request) -> web.Response:
    if error.content_type == "application/problem+json":
        return error
    details = {
        HTTPStatus.NOT_FOUND: f"there is nothing at {request.path}",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.method} is not possible on {request.path}",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: f"a body may have {_MAX_BODY_BYTES} bytes at most",
    }
    detail = details.get(HTTPStatus(error.status)) or error.reason
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return problem(error.status, detail, headers=headers)


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is taken by another program; give another one with --port N "
            "(0 takes any free one), or stop what listens there"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} on {host} may not be used without root; give one from 1024 on"
    return f"cannot listen on {host}:{port}: {error.strerror or error}; check http.host"


def _dumps(document: Any) -> str:
    return json.dumps(document, default=str)
