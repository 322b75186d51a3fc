"""The supervisor's own structured log, into the event store while Nissa runs."""

import itertools
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from esper_async.nissa.child_logs import words_of
from esper_async.nissa.event_store import LEVELS, Event
from esper_async.runtime.clock import Clock
from esper_async.runtime.logging import tapped_logs

_OWN = ("event", "level", "timestamp", "exc_info", "stack_info")
_TOLD_OTHERWISE = ("alert", "metric_opened")
_TEXT = 2_000
_LEVELS = {"exception": "error", "warn": "warning"}


@contextmanager
def own_logs(take: Callable[[Event], None], clock: Clock) -> Iterator[None]:
    """Hand each log entry from info on to `take`, in the thread that logs, inside the block."""
    start, numbers = uuid.uuid4().hex[:12], itertools.count()

    def hear(entry: dict[str, Any]) -> None:
        level = _LEVELS.get(entry.get("level", ""), entry.get("level", "info"))
        event = str(entry.get("event", ""))
        if level not in LEVELS or event in _TOLD_OTHERWISE:
            return
        fields = {
            key: str(value)[:_TEXT]
            for key, value in entry.items()
            if key not in _OWN and value is not None
        }
        take(
            Event(
                uid=f"log/{start}/{next(numbers)}",
                time=clock.time(),
                level=level,
                source="supervisor",
                name=f"log.{event}"[:100],
                message=words_of(event, fields),
                run=str(entry.get("run", ""))[:100],
                fields=fields,
            )
        )

    with tapped_logs(hear):
        yield
