"""The command line's client says what went wrong, whoever answered."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from esper_async.cli.client import Client
from esper_async.cli.failure import CommandError


class Answers(BaseHTTPRequestHandler):
    """Answers as a proxy does that finds nobody behind it."""

    def do_GET(self) -> None:
        self.send_response(503)
        self.end_headers()
        self.wfile.write(b"Service Unavailable")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_error_that_is_no_document_of_ours_is_told_by_its_code(url: str) -> None:
    with pytest.raises(CommandError, match="503"):
        Client(url, None).get("/api/status")
