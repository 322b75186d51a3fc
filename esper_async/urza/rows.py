"""The catalogue's tables and statements. Every row read is checked against its digest."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from esper_async.urza.errors import DamagedRecordError
from esper_async.urza.records import Asset, canonical, checked, digest_of

SCHEMA = (
    """CREATE TABLE assets (
        id TEXT PRIMARY KEY, key TEXT NOT NULL, version INTEGER NOT NULL, kind TEXT NOT NULL,
        blueprint TEXT NOT NULL, interface TEXT NOT NULL, lifecycle TEXT NOT NULL,
        blob TEXT NOT NULL, record TEXT NOT NULL, digest TEXT NOT NULL)""",
    "CREATE INDEX assets_by_key ON assets (key, version)",
    "CREATE INDEX assets_by_blueprint ON assets (blueprint, interface)",
    "CREATE INDEX assets_by_interface ON assets (interface)",
    "CREATE INDEX assets_by_kind ON assets (kind, lifecycle)",
    "CREATE INDEX assets_by_blob ON assets (blob)",
    "CREATE TABLE tags (tag TEXT, id TEXT, PRIMARY KEY (tag, id)) WITHOUT ROWID",
    "CREATE INDEX tags_by_id ON tags (id)",
    """CREATE TABLE audit (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, actor TEXT NOT NULL,
        action TEXT NOT NULL, asset TEXT NOT NULL, detail TEXT NOT NULL, digest TEXT NOT NULL)""",
    "CREATE INDEX audit_by_asset ON audit (asset)",
)
_COLUMNS = ("kind", "blueprint", "interface", "lifecycle", "blob")
_SELECT = (
    "SELECT rowid, id, key, version, kind, blueprint, interface, lifecycle, blob, record, digest"
    " FROM assets "
)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One changing access: who did what to which asset, when (Unix seconds), with what detail."""

    seq: int
    time: float
    actor: str
    action: str
    asset: str
    detail: str
    intact: bool


def store(connection: sqlite3.Connection, asset: Asset) -> None:
    """Insert or replace the row of this version, and its tags."""
    record = asset.to_json()
    connection.execute("DELETE FROM assets WHERE key = ? AND version = ?", asset_key(asset))
    connection.execute(
        "INSERT OR REPLACE INTO assets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            asset.id,
            asset.key,
            asset.version,
            *(str(getattr(asset, name)) for name in _COLUMNS),
            record,
            digest_of(record),
        ),
    )
    connection.execute("DELETE FROM tags WHERE id = ?", (asset.id,))
    connection.executemany(
        "INSERT OR REPLACE INTO tags VALUES (?, ?)", [(tag, asset.id) for tag in asset.tags]
    )


def asset_key(asset: Asset) -> tuple[str, int]:
    """What identifies a version."""
    return (asset.key, asset.version)


def remove(connection: sqlite3.Connection, asset_id: str) -> None:
    """Delete the row of a version, and its tags."""
    connection.execute("DELETE FROM assets WHERE id = ?", (asset_id,))
    connection.execute("DELETE FROM tags WHERE id = ?", (asset_id,))


def remove_rows(connection: sqlite3.Connection, rowids: Iterable[int]) -> None:
    """Delete damaged rows, in which nothing but the place can be trusted."""
    connection.executemany("DELETE FROM assets WHERE rowid = ?", [(row,) for row in rowids])


def newest(connection: sqlite3.Connection, key: str) -> Asset | None:
    """The latest version under `key`. Raises DamagedRecordError."""
    row = connection.execute(
        _SELECT + "WHERE key = ? ORDER BY version DESC LIMIT 1", (key,)
    ).fetchone()
    return None if row is None else verified(row)


def by_id(connection: sqlite3.Connection, asset_id: str) -> Asset | None:
    """One version. Raises DamagedRecordError."""
    row = connection.execute(_SELECT + "WHERE id = ?", (asset_id,)).fetchone()
    return None if row is None else verified(row)


def matching(
    connection: sqlite3.Connection, wanted: Mapping[str, str], tag: str | None, limit: int
) -> list[Asset]:
    """The assets whose columns equal `wanted` and that carry `tag`, newest first.

    Raises DamagedRecordError when any of their rows is damaged.
    """
    conditions = [f"{name} = ?" for name in wanted]
    values: list[str | int] = list(wanted.values())
    if tag is not None:
        conditions.append("id IN (SELECT id FROM tags WHERE tag = ?)")
        values.append(tag)
    where = "WHERE " + " AND ".join(conditions) + " " if conditions else ""
    rows = connection.execute(
        _SELECT + where + "ORDER BY rowid DESC LIMIT ?", [*values, limit]
    ).fetchall()
    assets = [verified(row) for row in rows]
    return [asset for asset in assets if tag is None or tag in asset.tags]


def of_key(connection: sqlite3.Connection, key: str) -> tuple[list[Asset], list[int]]:
    """The intact versions under `key`, and the row numbers of the damaged ones."""
    return _sorted_out(connection.execute(_SELECT + "WHERE key = ?", (key,)))


def everything(connection: sqlite3.Connection) -> tuple[list[Asset], list[int]]:
    """All intact assets, and the row numbers of the damaged ones."""
    return _sorted_out(connection.execute(_SELECT))


def verified(row: tuple[object, ...]) -> Asset:
    """The asset of a row whose record, digest and columns agree. Raises DamagedRecordError."""
    _, asset_id, key, version, *columns, record, digest = row
    asset = checked(record, digest)
    said = (asset.id, asset.key, asset.version, *(getattr(asset, name) for name in _COLUMNS))
    if said != (asset_id, key, version, *columns):
        raise DamagedRecordError(f"the columns of {asset.id} do not match its record")
    return asset


def _sorted_out(rows: Iterator[tuple[object, ...]]) -> tuple[list[Asset], list[int]]:
    intact: list[Asset] = []
    damaged: list[int] = []
    for row in rows:
        try:
            intact.append(verified(row))
        except DamagedRecordError:
            damaged.append(int(str(row[0])))
    return intact, damaged


def count_by(connection: sqlite3.Connection, column: str) -> dict[str, int]:
    """How many assets have each value of `column`."""
    rows = connection.execute(f"SELECT {column}, COUNT(*) FROM assets GROUP BY 1")
    return {str(value): int(count) for value, count in rows}


def note(
    connection: sqlite3.Connection,
    time: float,
    actor: str,
    action: str,
    asset: str,
    detail: Mapping[str, object],
) -> None:
    """Append to the audit log."""
    fields = (time, actor, action, asset, canonical(dict(detail)))
    connection.execute(
        "INSERT INTO audit (time, actor, action, asset, detail, digest) VALUES (?, ?, ?, ?, ?, ?)",
        (*fields, digest_of(canonical(fields))),
    )


def audited(connection: sqlite3.Connection, asset: str | None, limit: int) -> list[AuditEntry]:
    """The latest entries of the audit log, newest first, of one asset or of all."""
    where, values = ("", []) if asset is None else ("WHERE asset = ? ", [asset])
    rows = connection.execute(
        "SELECT seq, time, actor, action, asset, detail, digest FROM audit "
        + where
        + "ORDER BY seq DESC LIMIT ?",
        [*values, limit],
    )
    return [_entry(row) for row in rows]


def _entry(row: tuple[int, float, str, str, str, str, str]) -> AuditEntry:
    seq, time, actor, action, asset, detail, digest = row
    intact = _intact((time, actor, action, asset, detail), digest)
    return AuditEntry(seq, time, actor, action, asset, detail, intact)


def _intact(fields: tuple[object, ...], digest: object) -> bool:
    try:
        return digest_of(canonical(fields)) == digest
    except ValueError:
        return False
