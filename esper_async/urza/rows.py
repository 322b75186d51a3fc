"""The catalogue's tables and statements. Every row read is checked against its digest."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from esper_async.urza.errors import DamagedRecordError
from esper_async.urza.records import Asset, canonical, checked, digest_of

SCHEMA_VERSION = 2
SCHEMA = (
    """CREATE TABLE assets (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
        key TEXT NOT NULL, version INTEGER NOT NULL, kind TEXT NOT NULL,
        blueprint TEXT NOT NULL, interface TEXT NOT NULL, lifecycle TEXT NOT NULL,
        blob TEXT NOT NULL, tier TEXT NOT NULL, stage INTEGER, risk REAL,
        parameters REAL, flops REAL, latency_ms REAL, tags TEXT NOT NULL,
        record TEXT NOT NULL, digest TEXT NOT NULL)""",
    "CREATE INDEX assets_by_key ON assets (key, version)",
    "CREATE INDEX assets_by_blob ON assets (blob)",
    """CREATE TABLE audit (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, actor TEXT NOT NULL,
        action TEXT NOT NULL, asset TEXT NOT NULL, detail TEXT NOT NULL, digest TEXT NOT NULL)""",
    "CREATE INDEX audit_by_asset ON audit (asset)",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
"""A row that is changed is a new row with a higher `seq`; no `seq` is used twice."""

COLUMNS = (
    "id", "key", "version", "kind", "blueprint", "interface", "lifecycle", "blob",
    "tier", "stage", "risk", "parameters", "flops", "latency_ms", "tags",
)  # fmt: skip
"""What a row says beside its record, so that it can be found by it; told again by the record."""
_SELECT = f"SELECT seq, {', '.join(COLUMNS)}, record, digest FROM assets "
_INSERT = (
    f"INSERT OR REPLACE INTO assets ({', '.join(COLUMNS)}, record, digest) "
    f"VALUES ({', '.join('?' * (len(COLUMNS) + 2))})"
)


def store(connection: sqlite3.Connection, asset: Asset) -> None:
    """Put the row of this version in the place of any that it has."""
    record = asset.to_json()
    connection.execute(
        "DELETE FROM assets WHERE id = ? OR (key = ? AND version = ?)",
        (asset.id, asset.key, asset.version),
    )
    connection.execute(_INSERT, (*said(asset), record, digest_of(record)))


def said(asset: Asset) -> tuple[object, ...]:
    """What the columns of its row say."""
    return (
        asset.id, asset.key, asset.version, asset.kind, asset.blueprint, asset.interface,
        str(asset.lifecycle), asset.blob, asset.tier, asset.stage, asset.risk,
        asset.parameters, asset.flops, asset.latency_ms, canonical(asset.tags),
    )  # fmt: skip


def remove(connection: sqlite3.Connection, asset_id: str) -> None:
    """Delete the row of a version."""
    connection.execute("DELETE FROM assets WHERE id = ?", (asset_id,))


def remove_rows(connection: sqlite3.Connection, seqs: Iterable[int]) -> None:
    """Delete damaged rows, in which nothing but the place can be trusted."""
    connection.executemany("DELETE FROM assets WHERE seq = ?", [(row,) for row in seqs])


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


def behind(connection: sqlite3.Connection, seq: int, limit: int) -> list[tuple[int, Asset]]:
    """The next rows with a higher `seq`, in order. Raises DamagedRecordError."""
    found = connection.execute(_SELECT + "WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit))
    return [(int(row[0]), verified(row)) for row in found.fetchall()]


def at(connection: sqlite3.Connection, seqs: Sequence[int]) -> dict[int, Asset]:
    """The rows that are still there, by `seq`. Raises DamagedRecordError."""
    found = connection.execute(_SELECT + f"WHERE seq IN ({', '.join('?' * len(seqs))})", seqs)
    return {int(row[0]): verified(row) for row in found.fetchall()}


def of_key(connection: sqlite3.Connection, key: str) -> tuple[list[Asset], list[int]]:
    """The intact versions under `key`, and the row numbers of the damaged ones."""
    return _sorted_out(connection.execute(_SELECT + "WHERE key = ?", (key,)))


def everything(connection: sqlite3.Connection) -> tuple[list[Asset], list[int]]:
    """All intact assets, and the row numbers of the damaged ones."""
    return _sorted_out(connection.execute(_SELECT))


def verified(row: tuple[object, ...]) -> Asset:
    """The asset of a row whose record, digest and columns agree. Raises DamagedRecordError."""
    _, *columns, record, digest = row
    asset = checked(record, digest)
    if said(asset) != tuple(columns):
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
