"""Who may do what: the token, the page's cookie, and the checks against foreign pages.

Reading is open to this machine. A change needs the token, as `Authorization: Bearer`, or, for the
page, a cookie that a browser sends only from the page itself. From another machine reading needs
the token too. A request without the token must name this machine in its Host header, so that a
foreign page cannot reach us under a name of its own, and must not come from another origin.
"""

import hashlib
import hmac
import ipaddress
import os
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from aiohttp import web

from esper_async.nissa.problems import Problem

COOKIE = "esper_page"
ENVIRONMENT = "ESPER_API_TOKEN"
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_SHORTEST_TOKEN = 16
Credential = Literal["token", "cookie", "none"]


def load_token(state_dir: Path, given: str | None = None) -> str:
    """Return the API's token: the one given, else that of `state_dir/token`, made if missing.

    Raises:
        ValueError: a given token is too short, or the file is readable by others or empty.
    """
    if given is not None:
        if len(given) < _SHORTEST_TOKEN:
            raise ValueError(f"{ENVIRONMENT} must have at least {_SHORTEST_TOKEN} characters")
        return given
    path = state_dir / "token"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _stored_token(path)
    with os.fdopen(descriptor, "w") as file:
        token = secrets.token_urlsafe(32)
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    return token


def _stored_token(path: Path) -> str:
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path} can be read by others; run `chmod 600 {path}`")
    token = path.read_text().strip()
    if len(token) < _SHORTEST_TOKEN:
        raise ValueError(f"{path} holds no token; delete it and a new one is made")
    return token


class Access:
    """Judges requests. `hosts` are further host names under which this service may be reached."""

    def __init__(self, token: str, *, hosts: Collection[str] = ()) -> None:
        self._token = token.encode()
        self._cookie = hmac.new(self._token, b"esper page", hashlib.sha256).hexdigest()
        self._hosts = _LOOPBACK_NAMES | {host.lower() for host in hosts}

    def admit(self, request: web.Request, *, change: bool) -> Credential:
        """Return how the caller proved itself.

        Raises:
            Problem: 401 where a token is needed and missing or wrong, 403 for a foreign page.
        """
        authorization = request.headers.get("Authorization")
        if authorization is not None:
            self._check_bearer(authorization)
            return "token"
        self._check_host(request)
        self._check_origin(request)
        if self._has_cookie(request):
            return "cookie"
        if change or not is_loopback(request.remote):
            deed = "Changing something" if change else "Reading from another machine"
            raise _unauthorized(
                f"{deed} needs the header 'Authorization: Bearer TOKEN'; the token is in the file "
                f"'token' of the state directory, or in {ENVIRONMENT}."
            )
        return "none"

    def is_token(self, text: str) -> bool:
        """Whether `text` is the token, compared in constant time."""
        return hmac.compare_digest(text.encode(), self._token)

    def give_cookie(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let the page that this answer makes act for the person who opened it."""
        response.set_cookie(
            COOKIE,
            self._cookie,
            httponly=True,
            samesite="Strict",
            secure=request.scheme == "https",
            path="/",
        )

    def _check_bearer(self, authorization: str) -> None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise _unauthorized("The Authorization header must be 'Bearer TOKEN'.")
        if not self.is_token(token.strip()):
            raise _unauthorized(
                "The token is wrong; compare it with the state directory's 'token'."
            )

    def _has_cookie(self, request: web.Request) -> bool:
        cookie = request.cookies.get(COOKIE, "")
        return hmac.compare_digest(cookie.encode(), self._cookie.encode())

    def _check_host(self, request: web.Request) -> None:
        name = _host_name(request.headers.get("Host", ""))
        if name not in self._hosts:
            raise Problem(
                403,
                f"The Host header names {name!r}, which is not this service; use http://127.0.0.1, "
                "or send the token.",
            )

    def _check_origin(self, request: web.Request) -> None:
        origin = request.headers.get("Origin")
        site = request.headers.get("Sec-Fetch-Site", "none")
        foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("Host")
        if foreign or (site not in ("none", "same-origin") and not _is_navigation(request)):
            raise Problem(403, "Requests from other origins are refused; open the page itself.")


def is_loopback(address: str | None) -> bool:
    """Whether a peer's address is this machine's own."""
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:
        return False


def _is_navigation(request: web.Request) -> bool:
    """A person following a link from elsewhere: harmless, since its answer stays with them."""
    return request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _unauthorized(detail: str) -> Problem:
    return Problem(401, detail, headers={"WWW-Authenticate": 'Bearer realm="esper"'})
