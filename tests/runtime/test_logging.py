"""Logs are structured, go to the stream given, and keep the level."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from esper_async.runtime.logging import configure_logging


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    handlers, level = list(logging.root.handlers), logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def test_json_lines_carry_their_fields_and_lower_levels_are_dropped() -> None:
    stream = io.StringIO()
    configure_logging("info", json=True, stream=stream)
    log = structlog.get_logger()
    log.debug("too_quiet")
    log.info("run_started", run="r-1", epochs=3)
    (line,) = stream.getvalue().splitlines()
    event = json.loads(line)
    assert (event["event"], event["run"], event["epochs"], event["level"]) == (
        "run_started", "r-1", 3, "info",
    )  # fmt: skip


def test_the_standard_librarys_logs_take_the_same_form() -> None:
    stream = io.StringIO()
    configure_logging("info", json=True, stream=stream)
    logging.getLogger("asyncio").warning("slow %s", "callback")
    assert json.loads(stream.getvalue())["event"] == "slow callback"


def test_no_colour_reaches_a_stream_that_is_no_terminal() -> None:
    stream = io.StringIO()
    configure_logging("info", json=False, stream=stream)
    structlog.get_logger().warning("breaker_opened", name="redis")
    assert "\x1b" not in stream.getvalue()
    assert "breaker_opened" in stream.getvalue()


def test_a_log_on_a_full_disk_ends_nobody_and_says_afterwards_what_was_refused() -> None:
    class Full(io.StringIO):
        refuses = True

        def write(self, text: str) -> int:
            if self.refuses:
                raise OSError(28, "No space left on device")
            return super().write(text)

    stream = Full()
    configure_logging("info", json=True, stream=stream)
    structlog.get_logger().info("first")
    logging.getLogger("asyncio").warning("second")
    stream.refuses = False
    structlog.get_logger().info("third")
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert told[0] == {"event": "log_lines_refused", "count": 2}
    assert [line["event"] for line in told[1:]] == ["third"]
