"""Errors as RFC 9457 problem documents: what was wrong, and what to do about it."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

CONTENT_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818 - it is a document more than an error
    """An answer other than success. `detail` is for the person who reads it."""

    def __init__(
        self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = more

    def document(self) -> dict[str, Any]:
        """The body of the answer."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            **self.more,
        }

    def response(self) -> web.Response:
        """The answer itself."""
        return web.json_response(
            self.document(), status=self.status, headers=self.headers, content_type=CONTENT_TYPE
        )
