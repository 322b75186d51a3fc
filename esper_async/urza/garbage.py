"""Collecting what is no longer of use: never what anybody refers to."""

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from esper_async.urza import rows
from esper_async.urza.blobs import BlobStore
from esper_async.urza.records import Asset, Lifecycle
from esper_async.urza.sidecars import Sidecars

_WITHDRAWN = (Lifecycle.DEPRECATED, Lifecycle.QUARANTINED)


@dataclass(frozen=True, slots=True)
class Collected:
    """How many versions and blobs were deleted, and the bytes that freed."""

    assets: int
    blobs: int
    freed_bytes: int


def collectable(assets: list[Asset], older_than: float) -> list[Asset]:
    """The versions made before `older_than` (Unix seconds) that may be deleted.

    Only a withdrawn version or one with a later version under its key goes, and only when no
    holder refers to it and nothing that stays was made from it.
    """
    latest: dict[str, int] = {}
    for asset in assets:
        latest[asset.key] = max(asset.version, latest.get(asset.key, 0))
    going = {
        asset.id: asset
        for asset in assets
        if not asset.holders
        and asset.created_at < older_than
        and (asset.lifecycle in _WITHDRAWN or asset.version < latest[asset.key])
    }
    staying = [asset for asset in assets if asset.id not in going]
    while staying:
        parents = {parent for asset in staying for parent in asset.parents}
        staying = [going.pop(name) for name in parents if name in going]
    return list(going.values())


def collect(
    connection: sqlite3.Connection,
    sidecars: Sidecars,
    blobs: BlobStore,
    now: float,
    min_age_s: float,
    note: Callable[[str, str, Mapping[str, object]], None],
) -> Collected:
    """Delete within a write transaction, so that no put can come between look and deletion.

    `note` is told the action, asset and detail of each deletion.
    """
    assets, _ = rows.everything(connection)
    going = collectable(assets, now - min_age_s)
    for asset in going:
        sidecars.remove(asset.key, asset.version)
        rows.remove(connection, asset.id)
        note("collected", asset.id, {"blob": asset.blob})
    gone = {asset.id for asset in going}
    needed = {asset.blob for asset in assets if asset.id not in gone}
    needed |= {asset.blob for asset in sidecars.all()}
    blobs_deleted = freed_bytes = 0
    for name in list(blobs.names()):
        if name not in needed and blobs.age_s(name, now) >= min_age_s:
            freed_bytes += blobs.remove(name)
            blobs_deleted += 1
    return Collected(len(going), blobs_deleted, freed_bytes)
