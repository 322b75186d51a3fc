"""The way to a supervisor that runs: found by its state directory, spoken to over HTTP."""

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper_async.cli.failure import EXIT_FAILED, EXIT_WRONG_REQUEST, CommandError

_TIMEOUT_S = 10.0
_WRONG = frozenset({400, 404, 409, 413, 422})


class NotRunningError(CommandError):
    """No supervisor runs on the state directory."""


class Client:
    """Calls of one supervisor's API. Each raises CommandError with the answer's own detail."""

    def __init__(self, url: str, token: str | None, pid: int | None = None) -> None:
        self.url = url
        self.pid = pid
        self._token = token
        # a proxy has no business between two processes of this machine
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @classmethod
    def of(cls, state_dir: Path) -> "Client":
        """Return a client of the supervisor on `state_dir`; raises NotRunningError."""
        remedy = "start one with `esper-supervisor up`, or name its --state-dir"
        try:
            facts = json.loads((state_dir / "supervisor.json").read_text())
            os.kill(facts["pid"], 0)
        except (OSError, ValueError, KeyError):
            raise NotRunningError(f"no supervisor runs on {state_dir}; {remedy}") from None
        token = os.environ.get("ESPER_API_TOKEN") or _read(state_dir / "token")
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(facts["host"], facts["host"])
        return cls(f"http://{host}:{facts['port']}", token, facts["pid"])

    def get(self, path: str, **query: object) -> Any:
        """Return the document at `path`; parameters that are None are left out."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._call("GET", f"{path}?{urllib.parse.urlencode(given)}" if given else path)

    def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = _TIMEOUT_S
    ) -> Any:
        """Ask for a change and return the answer."""
        return self._call("POST", path, body or {}, timeout_s=timeout_s)

    def delete(self, path: str, *, timeout_s: float = _TIMEOUT_S) -> Any:
        """Delete what is at `path`."""
        return self._call("DELETE", path, timeout_s=timeout_s)

    def readiness(self) -> dict[str, Any]:
        """Return the body of `/readyz`, ready or not."""
        return dict(self._call("GET", "/readyz", accept=(503,)))

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        accept: tuple[int, ...] = (),
        timeout_s: float = _TIMEOUT_S,
    ) -> Any:
        headers = {"Accept": "application/json"}
        data = None
        if method != "GET" and self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(  # noqa: S310 - the scheme is ours
            self.url + path, data, headers, method=method
        )
        try:
            with self._opener.open(request, timeout=timeout_s) as answer:
                return _document(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                document = _told(error.read())
            if error.code in accept:
                return document
            detail = document.get("detail") if isinstance(document, dict) else None
            code = EXIT_WRONG_REQUEST if error.code in _WRONG else EXIT_FAILED
            raise CommandError(str(detail or error), code) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise CommandError(f"the supervisor at {self.url} does not answer: {reason}") from None


def _document(body: bytes) -> Any:
    return json.loads(body) if body else None


def _told(body: bytes) -> Any:
    """Return an error's document; None where it has none, as that of something in between."""
    try:
        return _document(body)
    except ValueError:
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
