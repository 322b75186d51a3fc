"""The logs of training processes and of the forge's workers, line by line into the event store.

A process writes structured lines; whatever else comes (what a user's code prints, a traceback) is
gathered into one event. Lines are told apart by where they stand in their file, so reading one
again adds nothing; in a log that was begun anew, places go on from where the older part ended. A
process that floods its log is cut short here; the file has all of it.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from esper_async.nissa.event_store import LEVELS, Event

LOG_NAME = "log.jsonl"
_OF_WORKERS = "tezzeret/worker-*.log"
_AT_ONCE_BYTES = 256 * 1024
_EVENTS_A_MINUTE = 200
_TEXT = 2_000
_LEVELS = {"debug": "info", "exception": "error", "warn": "warning"}
_OWN = ("event", "level", "timestamp", "logger")


@dataclass(frozen=True, slots=True)
class _Log:
    """A log of a child: the name under which its place is kept, and whose it is."""

    name: str
    path: Path
    source: str
    run: str = ""


@dataclass(slots=True)
class _Place:
    offset: int
    kept: int
    base: int = 0
    minute: int = 0
    told: int = 0


class Cursors(Protocol):
    """Where places in files are kept over restarts, as `EventStore` does."""

    def cursor(self, name: str) -> int:
        """How far a reader has come; 0 for a new one."""
        ...

    def set_cursor(self, name: str, place: int) -> None:
        """Remember how far it has come."""
        ...


class ChildLogs:
    """Follows the log of every run and forge worker. Calls block and may be a thread's.

    `dropped` counts events that were too many for their minute.
    """

    def __init__(self, state_dir: Path, cursors: Cursors) -> None:
        self._state_dir = state_dir
        self._cursors = cursors
        self._places: dict[str, _Place] = {}
        self.dropped = 0

    def read(self, now: float) -> list[Event]:
        """Return what is new in every log, at most a piece of each; raises sqlite3.Error.

        A place is kept one call later: by then what was returned is on disk, too.
        """
        for name, place in self._places.items():
            if place.offset != place.kept:
                self._cursors.set_cursor(f"log/{name}", place.offset)
                place.kept = place.offset
        return [event for log in self._logs() for event in self._read(log, now)]

    def _logs(self) -> Iterator[_Log]:
        for path in sorted(self._state_dir.glob(f"runs/*/{LOG_NAME}")):
            yield _Log(path.parent.name, path, "training", path.parent.name)
        for path in sorted(self._state_dir.glob(_OF_WORKERS)):
            yield _Log(f"forge/{path.stem}", path, "forge")

    def _read(self, log: _Log, now: float) -> Iterator[Event]:
        place = self._places.get(log.name)
        if place is None:
            offset = self._cursors.cursor(f"log/{log.name}")
            base = self._cursors.cursor(f"log-base/{log.name}")
            place = self._places[log.name] = _Place(offset, offset, base)
        try:
            size = log.path.stat().st_size
            if size < place.offset - place.base:  # it was rotated
                place.base = place.offset
                self._cursors.set_cursor(f"log-base/{log.name}", place.base)
            if size <= place.offset - place.base:
                return
            with log.path.open("rb") as file:
                file.seek(place.offset - place.base)
                piece = file.read(_AT_ONCE_BYTES)
        except OSError:
            return  # the run was deleted, or the disk refuses: the next round looks again
        end = piece.rfind(b"\n") + 1
        if end == 0:
            if len(piece) < _AT_ONCE_BYTES:
                return  # a line that is still being written
            end = len(piece)
        yield from self._bounded(_events(log, piece[:end], place.offset, now), place, now)
        place.offset += end

    def _bounded(self, events: Iterator[Event], place: _Place, now: float) -> Iterator[Event]:
        minute = int(now // 60)
        if minute != place.minute:
            place.minute, place.told = minute, 0
        for event in events:
            grave = LEVELS.index(event.level) >= LEVELS.index("error")
            if place.told >= _EVENTS_A_MINUTE and not grave:
                self.dropped += 1
                continue
            place.told += 1
            yield event


def _events(log: _Log, piece: bytes, offset: int, now: float) -> Iterator[Event]:
    """The events of whole lines; `offset` is where the first of them stands in its file."""
    plain: list[str] = []
    began = offset
    for raw in piece.splitlines(keepends=True):
        line = raw.decode("utf-8", "replace").rstrip()
        told = _structured(line)
        if told is None:
            if not plain:
                began = offset
            if line.strip():
                plain.append(line)
        else:
            if plain:
                yield _printed(log, plain, began, now)
                plain = []
            yield _logged(log, told, offset, now)
        offset += len(raw)
    if plain:
        yield _printed(log, plain, began, now)


def _structured(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) and isinstance(told.get("event"), str) else None


def _logged(log: _Log, told: dict[str, Any], offset: int, now: float) -> Event:
    level = str(told.get("level", "info"))
    level = _LEVELS.get(level, level)
    fields = {key[:100]: _short(value) for key, value in told.items() if key not in _OWN}
    return Event(
        uid=f"log/{log.name}/{offset}",
        time=_time_of(told, now),
        level=level if level in LEVELS else "info",
        source=log.source,
        name=f"log.{told['event']}"[:100],
        message=words_of(told["event"], fields),
        run=log.run,
        fields=fields,
    )


def _time_of(told: dict[str, Any], now: float) -> float:
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(str(told.get("timestamp"))).timestamp()
    return now


def _printed(log: _Log, lines: list[str], offset: int, now: float) -> Event:
    text = "\n".join(lines)
    failed = "Traceback (most recent call last)" in text
    return Event(
        uid=f"log/{log.name}/{offset}",
        time=now,
        level="error" if failed else "info",
        source=log.source,
        name="log.traceback" if failed else "log.output",
        message=text[-_TEXT:],
        run=log.run,
    )


def words_of(event: str, fields: dict[str, Any]) -> str:
    """A log entry as one line that people read and search."""
    known = [(key, value) for key, value in fields.items() if value is not None]
    told = ", ".join(f"{key}={value}" for key, value in known[:12])
    return f"{event.replace('_', ' ')}{f': {told}' if told else ''}"[:_TEXT]


def _short(value: Any) -> Any:
    return value if isinstance(value, int | float | bool | None) else str(value)[:_TEXT]
