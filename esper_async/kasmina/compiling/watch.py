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
        compilations: how many programs.
        ms: how long the step waited for them, in milliseconds.
        given_up: functions that dynamo runs without compiling them from now on, since they had to
            be compiled too often.
    """

    compilations: int
    ms: float
    given_up: tuple[str, ...] = ()


class CompileWatch:
    """Follows the compilations of this process, by dynamo's own callbacks and records.

    Args:
        on_start: called as one begins: it may take long.
    """

    def __init__(self, on_start: Callable[[], object] | None = None) -> None:
        from torch._dynamo import callback, utils  # slow to import, and few runs compile

        self._handler = callback.callback_handler
        self._utils = utils
        self._on_start = on_start
        self._begun = 0.0
        self._compilations = 0
        self._ms = 0.0
        self._frames = self._frames_seen()
        self._known = self._last_record()
        self._listen()

    def take(self) -> Compiled | None:
        """Return what was compiled since this was last called; None if nothing was."""
        self._listen()
        frames = self._frames_seen()
        if frames == self._frames and self._compilations == 0:
            return None
        self._frames = frames
        found = Compiled(self._compilations, self._ms, self._new_surrenders())
        self._compilations, self._ms = 0, 0.0
        return found if found.compilations or found.given_up else None

    def close(self) -> None:
        """Follow no more."""
        if self._start in self._handler.start_callbacks:
            self._handler.remove_start_callback(self._start)
            self._handler.remove_end_callback(self._end)

    def _listen(self) -> None:
        """Register, again where `torch.compiler.reset()` has dropped what was registered."""
        if self._start not in self._handler.start_callbacks:
            self._handler.register_start_callback(self._start)
            self._handler.register_end_callback(self._end)

    def _start(self, _: Any) -> None:
        self._begun = time.perf_counter()
        if self._on_start is not None:
            self._on_start()

    def _end(self, _: Any) -> None:
        self._compilations += 1
        self._ms += 1e3 * (time.perf_counter() - self._begun)

    def _frames_seen(self) -> int:
        return int(self._utils.counters["frames"]["total"])

    def _last_record(self) -> Any:
        records = self._utils.get_compilation_metrics()
        return records[-1] if records else None

    def _new_surrenders(self) -> tuple[str, ...]:
        records = self._utils.get_compilation_metrics()
        known = next((n for n, r in enumerate(records, start=1) if r is self._known), 0)
        self._known = records[-1] if records else None
        return tuple(
            f"{record.co_name} ({record.co_filename}:{record.co_firstlineno})"
            for record in records[known:]
            if record.fail_type == _GAVE_UP
        )
