"""Restoring the catalogue from the sidecars: one key, all rows, or a whole new database."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from esper_async.urza import rows
from esper_async.urza.audit import AuditLog
from esper_async.urza.database import Database
from esper_async.urza.errors import DamagedRecordError
from esper_async.urza.records import Asset
from esper_async.urza.sidecars import Sidecars


@dataclass(frozen=True, slots=True)
class Repairs:
    """What a reconciliation found: damaged rows, rows restored, sidecars written again."""

    damaged_rows: int
    restored_rows: int
    rewritten_sidecars: int


def newest_or_damage(connection: sqlite3.Connection, sidecars: Sidecars, key: str) -> Asset | None:
    """The latest version of `key`.

    Raises DamagedRecordError also when a sidecar knows of a later version than the rows do (the
    row's key may be what was damaged), or more of this one (the catalogue has lost a change).
    """
    asset = rows.newest(connection, key)
    version = 0 if asset is None else asset.version
    if sidecars.exists(key, version + 1):
        raise DamagedRecordError(f"there is a sidecar but no row of {key}@{version + 1}")
    if asset is not None and _behind(asset, sidecars.read(key, version)):
        raise DamagedRecordError(f"the row of {asset.id} is older than its sidecar")
    return asset


def heal_key(connection: sqlite3.Connection, sidecars: Sidecars, key: str) -> Asset | None:
    """Bring rows and sidecars of one key together, inside a write transaction; its latest version.

    A version of which neither row nor sidecar is intact is gone.
    """
    intact, damaged = rows.of_key(connection, key)
    versions = {asset.version: asset for asset in sidecars.of_key(key)}
    for asset in intact:
        if not _behind(asset, versions.get(asset.version)):
            versions[asset.version] = asset
    rows.remove_rows(connection, damaged)
    for asset in versions.values():
        rows.store(connection, asset)
    latest = max(versions, default=0)
    if sidecars.exists(key, latest + 1):
        sidecars.quarantine(key, latest + 1)
    return versions.get(latest)


def reconcile(database: Database, sidecars: Sidecars) -> Repairs:
    """Compare every row with every sidecar, and restore each from the other.

    Files are read outside the transaction, so that writers wait only for what is to be mended.
    """
    intact, damaged = database.read(rows.everything)
    known = {asset.id: asset for asset in intact}
    on_disk = {asset.id: asset for asset in sidecars.all()}
    ahead = [asset for name, asset in on_disk.items() if _behind(known.get(name), asset)]
    ahead_names = {asset.id for asset in ahead}
    stale = [
        name
        for name, asset in known.items()
        if name not in ahead_names and on_disk.get(name) != asset
    ]
    if not (damaged or ahead or stale):
        return Repairs(0, 0, 0)

    def mend(connection: sqlite3.Connection) -> Repairs:
        _, still_damaged = rows.everything(connection)
        rows.remove_rows(connection, still_damaged)
        restored = 0
        for asset in ahead:
            row = rows.by_id(connection, asset.id)
            if _behind(row, asset) and sidecars.exists(asset.key, asset.version):
                rows.store(connection, asset)
                restored += 1
        rewritten = 0
        for name in stale:
            row = rows.by_id(connection, name)
            if row is not None and sidecars.read(row.key, row.version) != row:
                sidecars.write(row)
                rewritten += 1
        return Repairs(len(still_damaged), restored, rewritten)

    return database.write(mend)


def rebuilder(
    sidecars: Sidecars, audit: AuditLog, now: Callable[[], float]
) -> Callable[[sqlite3.Connection, str | None, Path | None], None]:
    """What fills a new database: the tables, every intact sidecar, the audit log."""

    def fill(connection: sqlite3.Connection, reason: str | None, damaged: Path | None) -> None:
        for statement in rows.SCHEMA:
            connection.execute(statement)
        restored = 0
        for asset in sidecars.all():
            rows.store(connection, asset)
            restored += 1
        audit.restore(connection, damaged)
        if reason is not None or restored:
            detail = {"reason": reason or "there was no catalogue", "restored": restored}
            audit.note(connection, now(), "urza", "catalogue_rebuilt", "", detail)

    return fill


def _behind(row: Asset | None, sidecar: Asset | None) -> bool:
    """Whether the sidecar knows what the row does not."""
    if row is None or sidecar is None:
        return sidecar is not None
    return row.revision < sidecar.revision
