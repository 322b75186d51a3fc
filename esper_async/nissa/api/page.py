"""The operator's page and its files, from the package, under a strict policy."""

import hashlib
from functools import lru_cache
from importlib.resources import files
from pathlib import PurePosixPath

from aiohttp import web

from esper_async.nissa.access import is_loopback
from esper_async.nissa.problems import Problem
from esper_async.nissa.route import Call, Route

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain",
}


async def page(call: Call) -> web.Response:
    """The page itself. On this machine it gets the cookie with which it may act."""
    answer = _file(call.request, "index.html")
    if is_loopback(call.request.remote):
        call.context.access.give_cookie(call.request, answer)
    return answer


async def asset(call: Call) -> web.Response:
    """A script, a style or a picture of the page."""
    return _file(call.request, call.path("file"))


async def sign_in(call: Call) -> web.Response:
    """Give a browser on another machine the page's cookie: the request had the token."""
    answer = web.Response(status=204)
    call.context.access.give_cookie(call.request, answer)
    return answer


def _file(request: web.Request, name: str) -> web.Response:
    found = contents(name)
    if found is None:
        raise Problem(404, f"The page has no file {name!r}.")
    body, tag, content_type = found
    headers = {
        "Content-Security-Policy": POLICY,
        "Cache-Control": "no-cache",
        "ETag": f'"{tag}"',
    }
    if f'"{tag}"' in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers=headers, content_type=content_type, charset="utf-8")


@lru_cache(maxsize=64)
def contents(name: str) -> tuple[bytes, str, str] | None:
    """A file of the page: its bytes, its digest and its type; None when there is none."""
    parts = PurePosixPath(name).parts
    content_type = _TYPES.get(PurePosixPath(name).suffix)
    if content_type is None or not parts or any(part.startswith((".", "/")) for part in parts):
        return None
    source = files("esper_async.nissa").joinpath("page", *parts)
    if not source.is_file():
        return None
    body = source.read_bytes()
    return body, hashlib.sha256(body).hexdigest()[:24], content_type


ROUTES = (
    Route(
        method="GET", path="/", handler=page, text="The operator's page.",
        answers={200: None, 304: None}, media="text/html", open=True,
    ),
    Route(
        method="GET", path="/page/{file:.+}", handler=asset, text="The page's files.",
        answers={200: None, 304: None}, refusals=(404,), media="text/plain", open=True,
    ),
    Route(
        method="POST", path="/api/session", handler=sign_in,
        text="Give this browser the page's cookie; needs the token.", answers={204: None},
        change=True,
    ),
)  # fmt: skip
