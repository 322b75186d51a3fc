"""An append-only journal on disk: one JSON record a line, numbered, checksummed, synced.

A line is `crc32 json`. A torn last line, left by a crash in the middle of a write, is cut off when
the journal is opened for writing; damage anywhere else raises, since what follows it would be read
under wrong assumptions.
"""

import errno
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from esper_async.runtime.files import sync_directory


class JournalDamagedError(ValueError):
    """A record before the last one fails its checksum or its number."""


def _encode(record: Mapping[str, Any]) -> bytes:
    body = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _decode(line: bytes) -> dict[str, Any] | None:
    """Return the record of a whole, intact line, or None."""
    if not line.endswith(b"\n") or len(line) < 10 or line[8:9] != b" ":
        return None
    body = line[9:-1]
    try:
        if int(line[:8], 16) != zlib.crc32(body):
            return None
        record = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _scan(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each intact record with the offset behind it; stop at a torn tail."""
    with path.open("rb") as file:
        expected = 1
        end = 0
        for line in file:
            record = _decode(line)
            if record is None:
                if file.read(1):
                    raise JournalDamagedError(
                        f"{path}: record {expected} is damaged and others follow it; "
                        f"restore the file from a backup or remove the run"
                    )
                return
            if record.get("seq") != expected:
                raise JournalDamagedError(
                    f"{path}: expected record {expected}, found {record.get('seq')!r}"
                )
            end += len(line)
            expected += 1
            yield record, end


def read_journal(path: Path, after_seq: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the records numbered above `after_seq`, oldest first; none if the file is missing.

    Safe beside a writer: an unfinished last line is not yielded.
    """
    if not path.exists():
        return
    for record, _ in _scan(path):
        if record["seq"] > after_seq:
            yield record


class Journal:
    """The one writer of a journal file. Not thread-safe: a run has one."""

    def __init__(self, file: io.FileIO, last_seq: int) -> None:
        self._file = file
        self._last_seq = last_seq

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open for appending, creating the file and cutting off a torn last line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        last_seq, end = 0, 0
        new = not path.exists()
        if not new:
            for record, offset in _scan(path):
                last_seq, end = record["seq"], offset
        file = io.FileIO(path, "ab")
        file.truncate(end)
        os.fsync(file.fileno())
        if new:  # a durable record in a file whose name is lost is lost as well
            sync_directory(path.parent)
        return cls(file, last_seq)

    @property
    def last_seq(self) -> int:
        """Number of the newest record; 0 when there is none."""
        return self._last_seq

    def append(self, record: Mapping[str, Any]) -> int:
        """Write a record durably and return its number.

        Raises:
            ValueError: a value is not JSON (NaN and infinity included).
            OSError: the disk refused; nothing counts as written.
        """
        seq = self._last_seq + 1
        line = _encode({"seq": seq, **record})
        start = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, "the disk took only part of a journal record")
            os.fsync(self._file.fileno())
        except OSError:
            os.ftruncate(self._file.fileno(), start)
            raise
        self._last_seq = seq
        return seq

    def close(self) -> None:
        """Close the file; appending afterwards raises ValueError."""
        self._file.close()
