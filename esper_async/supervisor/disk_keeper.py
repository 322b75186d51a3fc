"""Looks after the disk: measures the room, says when it is low, and keeps the logs to a size.

What goes first when there is little room is what nobody would miss: older logs, then telemetry.
Nissa stores no events below a warning while the disk is low, and none while it is full; Tolaria
begins no run then. Checkpoints, journals and field reports are never given up.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from esper_async.runtime.clock import Clock
from esper_async.runtime.disk import DiskLevel, DiskLimits, level_after, room_in
from esper_async.runtime.log_file import cut, rotate
from esper_async.runtime.metrics import Registry

log = structlog.get_logger(__name__)
_LOGS = ("runs/*/log.jsonl", "tezzeret/worker-*.log", "redis/redis.log")
_NUMBERS: dict[DiskLevel, float] = {"ok": 0.0, "low": 1.0, "full": 2.0}


class DiskKeeper:
    """Keeps `level` current while it runs; it can be read at any time.

    `log_limit_bytes` is how large a log may grow before it is rotated.
    """

    def __init__(
        self,
        state_dir: Path,
        limits: DiskLimits,
        *,
        log_limit_bytes: int,
        every_s: float,
        clock: Clock,
        registry: Registry,
        room: Callable[[Path, int], tuple[int, int | None]] = room_in,
    ) -> None:
        self.level: DiskLevel = "ok"
        self._state_dir = state_dir
        self._limits = limits
        self._log_limit_bytes = log_limit_bytes
        self._every_s = every_s
        self._clock = clock
        self._room = room
        self._left = registry.gauge("supervisor.disk.room_bytes", "Bytes left for the state.")
        self._used = registry.gauge("supervisor.disk.used_bytes", "Bytes used, under a quota.")
        self._shown = registry.gauge("supervisor.disk.level", "0 ok, 1 low, 2 full.")
        self._rotations = registry.counter("supervisor.log.rotations", "Logs begun anew.")

    async def run(self) -> None:
        """Look again and again until cancelled; a disk that cannot be looked at is told of once."""
        failed = False
        while True:
            try:
                await asyncio.to_thread(self.look)
                failed = False
            except OSError as error:
                if not failed:
                    log.error("disk_not_looked_at", error=str(error))
                failed = True
            await self._clock.sleep(self._every_s)

    def look(self) -> None:
        """Measure once, and act on it. Blocking; raises OSError."""
        room, used = self._room(self._state_dir, self._limits.quota_bytes)
        before, self.level = self.level, level_after(self.level, room, self._limits)
        self._left.set(room)
        self._shown.set(_NUMBERS[self.level])
        if used is not None:
            self._used.set(used)
        if self.level != before:
            tell = log.info if self.level == "ok" else log.error
            tell("disk_level", level=self.level, before=before, room_bytes=room, used_bytes=used)
        if self.level != "ok" and before == "ok":
            log.warning("logs_cut", freed_bytes=sum(self._cut_all()))
        for path in self._logs():
            with contextlib.suppress(FileNotFoundError):
                if rotate(path, self._log_limit_bytes):
                    self._rotations.add()

    def _cut_all(self) -> Iterator[int]:
        for path in self._logs():
            with contextlib.suppress(FileNotFoundError):
                yield cut(path)

    def _logs(self) -> Iterator[Path]:
        for pattern in _LOGS:
            yield from self._state_dir.glob(pattern)
