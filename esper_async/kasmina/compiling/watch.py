"""Counting what torch compiles: how often, for how long, and where it gave up."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_GAVE_UP = "RecompileLimitExceeded"


@dataclass(frozen=True, slots=True)
class Compiled:
    """What was compiled since it was last asked for.

    Attributes:
        compilations: how many programs; a forward and its backward pass are one.
        ms: how long was waited for them, in milliseconds.
        given_up: functions that dynamo runs without compiling them from now on, since they had to
            be compiled too often.
    """

    compilations: int
    ms: float
    given_up: tuple[str, ...] = ()


class CompileWatch:
    """Follows the compilations of this process, by dynamo's callbacks and its records.

    Of records dynamo keeps the newest 64, and callbacks are dropped by `torch.compiler.reset()`:
    what the one has missed the other tells.

    Args:
        on_start: called as a compilation begins, which may take long.
    """

    def __init__(self, on_start: Callable[[], object]) -> None:
        from torch._dynamo import callback, utils  # slow to import, and few runs compile

        self._handler = callback.callback_handler
        self._a_frame = callback.CallbackTrigger.DYNAMO
        self._records: Callable[[], list[Any]] = utils.get_compilation_metrics
        self._on_start = on_start
        self._begun = 0.0
        self._told = Compiled(0, 0.0)
        self._names: dict[str, str] = {}
        self._known: Any = None
        self._listen()
        self._new_records()

    def take(self) -> Compiled | None:
        """Return what was compiled since this was last called; None if nothing was."""
        self._listen()
        records, told = self._new_records(), self._told
        if not records and told.compilations == 0:
            return None
        self._told = Compiled(0, 0.0)
        frames = sum(record.is_forward is True for record in records)
        ms = sum((record.end_time_us - record.start_time_us) / 1e3 for record in records)
        gone = tuple(self._name(record) for record in records if record.fail_type == _GAVE_UP)
        return Compiled(max(told.compilations, frames), max(told.ms, ms), gone)

    def close(self) -> None:
        """Follow no more."""
        if self._start in self._handler.start_callbacks:
            self._handler.remove_start_callback(self._start)
            self._handler.remove_end_callback(self._end)

    def _listen(self) -> None:
        if self._start not in self._handler.start_callbacks:
            self._handler.register_start_callback(self._start)
            self._handler.register_end_callback(self._end)

    def _start(self, _: Any) -> None:
        self._begun = time.perf_counter()
        self._on_start()

    def _end(self, event: Any) -> None:
        ms = 1e3 * (time.perf_counter() - self._begun)
        frames = self._told.compilations + (event.callback_trigger is self._a_frame)
        self._told = Compiled(frames, self._told.ms + ms)

    def _new_records(self) -> list[Any]:
        records = self._records()
        if not records or records[-1] is self._known:
            return []
        seen = next((n for n, record in enumerate(records, 1) if record is self._known), 0)
        self._known = records[-1]
        for record in records[seen:]:
            if record.co_name is not None:
                self._names[_frame(record)] = record.co_name
        return records[seen:]

    def _name(self, record: Any) -> str:
        """Return whose record it is: one of a failure names only its frame."""
        return record.co_name or self._names.get(_frame(record), f"frame {record.compile_id}")


def _frame(record: Any) -> str:
    """Return the number that all compilations of a function have in common."""
    return str(record.compile_id).partition("/")[0]
