"""The audit log: every access that changed something, kept twice.

An entry is a row of the catalogue and a line of `audit.jsonl`. Each carries its digest; what is
damaged or lost in one is restored from the other.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from esper_async.runtime.files import write_atomically
from esper_async.urza.records import canonical, digest_of

_SELECT = "SELECT seq, time, actor, action, asset, detail, digest FROM audit "


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One changing access: who did what to which asset, when (Unix seconds), with what detail."""

    seq: int
    time: float
    actor: str
    action: str
    asset: str
    detail: str
    intact: bool = True

    @property
    def fields(self) -> tuple[float, str, str, str, str]:
        """What the digest is of."""
        return (self.time, self.actor, self.action, self.asset, self.detail)


@dataclass(frozen=True, slots=True)
class AuditRepairs:
    """Rows that were damaged or missing, how many came back, and whether the file was rewritten."""

    damaged_rows: int
    restored_rows: int
    rewritten: bool


class AuditLog:
    """Every method works inside the caller's transaction, and may raise OSError."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "audit.jsonl"

    def note(
        self,
        connection: sqlite3.Connection,
        time: float,
        actor: str,
        action: str,
        asset: str,
        detail: Mapping[str, object],
    ) -> None:
        """Append an entry."""
        seq = connection.execute("SELECT COALESCE(MAX(seq), 0) + 1 FROM audit").fetchone()[0]
        entry = AuditEntry(seq, time, actor, action, asset, canonical(dict(detail)))
        _insert(connection, entry)
        with self._path.open("ab+") as file:
            if file.tell() and not _ends_a_line(file):
                file.write(b"\n")  # a crash has cut the last line short
            file.write(_line(entry))

    def latest(
        self, connection: sqlite3.Connection, asset: str | None, limit: int
    ) -> list[AuditEntry]:
        """The latest entries, newest first, of one asset or of all."""
        where, values = ("", []) if asset is None else ("WHERE asset = ? ", [asset])
        rows = connection.execute(
            _SELECT + where + "ORDER BY seq DESC LIMIT ?", [*values, limit]
        ).fetchall()
        return [_entry(row) for row in rows]

    def mend(self, connection: sqlite3.Connection) -> AuditRepairs:
        """Restore rows from the file and the file from the rows; inside a write transaction."""
        rows = list(map(_entry, connection.execute(_SELECT + "ORDER BY seq").fetchall()))
        intact = [row for row in rows if row.intact]
        lines, whole = self._lines()
        entries = _merged(lines, intact)
        rewritten = not whole or entries != lines
        if rewritten or entries != rows:
            self._replace(connection, entries)
        return AuditRepairs(
            damaged_rows=len(rows) - len(intact),
            restored_rows=len(set(entries) - set(intact)),
            rewritten=rewritten,
        )

    def restore(self, connection: sqlite3.Connection, damaged: Path | None) -> None:
        """Fill a new catalogue's log: from the file, and from what the damaged catalogue has."""
        lines, _ = self._lines()
        entries = _merged(lines, list(_salvaged(damaged)))
        if entries:
            self._replace(connection, entries)

    def _lines(self) -> tuple[list[AuditEntry], bool]:
        """The intact entries of the file in its order, and whether it had no others."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return [], True
        entries: list[AuditEntry] = []
        whole = True
        for line in content.splitlines():
            try:
                document = json.loads(line)
                if digest_of(document["entry"]) != document["digest"]:
                    raise ValueError("the digest does not match")
                entries.append(AuditEntry(*json.loads(document["entry"])))
            except (ValueError, TypeError, KeyError):
                whole = False
        return entries, whole

    def _replace(self, connection: sqlite3.Connection, entries: Sequence[AuditEntry]) -> None:
        """Make both copies say this and nothing else; the file first."""
        write_atomically(self._path, b"".join(map(_line, entries)))
        connection.execute("DELETE FROM audit")
        for entry in entries:
            _insert(connection, entry)


def _merged(lines: Sequence[AuditEntry], rows: Sequence[AuditEntry]) -> list[AuditEntry]:
    """Every entry of either copy once, in order; numbered anew where two have one number.

    That is so when the catalogue has lost entries and gone on with their numbers.
    """
    known = {entry.fields: entry for entry in (*rows, *lines)}
    entries = sorted(known.values(), key=lambda entry: entry.seq)
    if len({entry.seq for entry in entries}) == len(entries):
        return entries
    entries.sort(key=lambda entry: (entry.time, entry.seq))
    return [replace(entry, seq=number) for number, entry in enumerate(entries, start=1)]


def _line(entry: AuditEntry) -> bytes:
    text = canonical([entry.seq, *entry.fields])
    return canonical({"digest": digest_of(text), "entry": text}).encode() + b"\n"


def _ends_a_line(file: Any) -> bool:
    file.seek(-1, 2)
    return bool(file.read(1) == b"\n")


def _insert(connection: sqlite3.Connection, entry: AuditEntry) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO audit VALUES (?, ?, ?, ?, ?, ?, ?)",
        (entry.seq, *entry.fields, digest_of(canonical(entry.fields))),
    )


def _entry(row: tuple[Any, ...]) -> AuditEntry:
    seq, *fields, digest = row
    try:
        intact = digest_of(canonical(fields)) == digest
    except (ValueError, TypeError):
        intact = False
    time, actor, action, asset, detail = fields
    return AuditEntry(int(seq), time, actor, action, asset, detail, intact)


def _salvaged(damaged: Path | None) -> Iterator[AuditEntry]:
    """What can still be read of a damaged catalogue's log, as far as it is intact."""
    if damaged is None:
        return
    old = sqlite3.connect(f"{damaged.as_uri()}?mode=ro", uri=True)
    try:
        rows = old.execute(_SELECT).fetchall()
    except (sqlite3.Error, UnicodeDecodeError):
        return
    finally:
        old.close()
    yield from (entry for entry in map(_entry, rows) if entry.intact)
