"""How much room the disk has left, as something to act on."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DiskLevel = Literal["ok", "low", "full"]
_ORDER: tuple[DiskLevel, ...] = ("ok", "low", "full")
_RECOVERY = 1.25


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """Bytes left at which the disk counts as low and as full; the quota is on a folder (0: none).

    Raises ValueError when full would come before low.
    """

    low_bytes: int
    full_bytes: int
    quota_bytes: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.full_bytes <= self.low_bytes:
            raise ValueError(f"a disk is low before it is full: 0 <= full <= low, not {self}")


def room_in(folder: Path, quota_bytes: int) -> tuple[int, int | None]:
    """Return the bytes left for a folder, and what it has used where there is a quota.

    Blocking: with a quota every file is looked at. Raises OSError.
    """
    free = shutil.disk_usage(folder).free
    if not quota_bytes:
        return free, None
    used = used_by(folder)
    return max(0, min(free, quota_bytes - used)), used


def used_by(folder: Path) -> int:
    """Return the bytes that the files below a folder take on disk, each once; blocking."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                facts = (Path(parent) / name).lstat()
            except FileNotFoundError:
                continue  # replaced meanwhile
            if (facts.st_dev, facts.st_ino) not in seen:
                seen.add((facts.st_dev, facts.st_ino))
                total += facts.st_blocks * 512
    return total


def level_after(before: DiskLevel, room: int, limits: DiskLimits) -> DiskLevel:
    """Return the level for so many bytes left; it gets better only with a quarter to spare."""
    now = _level(room, limits, 1.0)
    better = _ORDER.index(now) < _ORDER.index(before)
    return max(now, _level(room, limits, _RECOVERY), key=_ORDER.index) if better else now


def _level(room: int, limits: DiskLimits, factor: float) -> DiskLevel:
    if room < factor * limits.full_bytes:
        return "full"
    return "low" if room < factor * limits.low_bytes else "ok"
