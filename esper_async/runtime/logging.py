"""Structured logs to one stream: readable lines on a terminal, JSON otherwise."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, TextIO

import structlog

Level = Literal["debug", "info", "warning", "error"]
_NUMBERS: dict[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure_logging(
    level: Level = "info",
    json: bool | None = None,
    stream: TextIO | None = None,
    *,
    color: bool | None = None,
) -> None:
    """Send this process's structlog and standard-library logs to `stream` (default: stderr).

    `json` None means JSON unless the stream is a terminal; `color` None means where it is one and
    NO_COLOR is unset. Calling it again replaces what was configured.
    """
    target: TextIO = _NeverRefuses(stream or sys.stderr)  # type: ignore[assignment]
    terminal = target.isatty()
    as_json = json if json is not None else not terminal
    colors = color if color is not None else terminal and not os.environ.get("NO_COLOR")
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        shared.append(structlog.processors.format_exc_info)
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(default=str)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=bool(colors))
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_NUMBERS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=target),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=max(_NUMBERS[level], logging.WARNING), handlers=[handler], force=True)


class _NeverRefuses:
    """A stream whose disk may be full: lines may be lost then, and whoever logs lives on.

    The first line that goes through again says how many were refused.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._refused = 0

    def write(self, text: str) -> int:
        """Write; what the stream refuses is counted."""
        try:
            if self._refused:
                self._stream.write(f'{{"event": "log_lines_refused", "count": {self._refused}}}\n')
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._refused += 1
        else:
            self._refused = 0
        return len(text)

    def flush(self) -> None:
        """Flush what can be."""
        with suppress(OSError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()


@contextmanager
def tapped_logs(hear: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Have `hear` told each structured entry, before it is written, for as long as the block lasts.

    It is called in the thread that logs, with a copy of the entry, and must neither raise nor log.
    Entries of the standard library's loggers come from warning on.
    """

    def tell(_logger: Any, method: str, entry: structlog.typing.EventDict) -> Any:
        hear({"level": method, **entry})
        return entry

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            level = record.levelname.lower()
            hear({"event": record.getMessage(), "level": level, "logger": record.name})

    before = structlog.get_config()["processors"]
    structlog.configure(processors=[*before[:-1], tell, before[-1]])
    handler = Heard(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        structlog.configure(processors=before)
