"""Rows, sidecars, blobs and memory cache kept in step; every read verified, damage dealt with."""

import functools
import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from esper_async.urza import garbage, rows
from esper_async.urza.audit import AuditLog, AuditRepairs
from esper_async.urza.blobs import BlobStore
from esper_async.urza.cache import ByteCache, Entry
from esper_async.urza.database import Database
from esper_async.urza.errors import DamagedRecordError, UnknownAssetError
from esper_async.urza.healing import (
    Repairs,
    heal_key,
    newest_or_damage,
    rebuilder,
    reconcile,
)
from esper_async.urza.query import Query
from esper_async.urza.records import SERVED, Asset, Lifecycle, digest_of
from esper_async.urza.seal import Seal
from esper_async.urza.sidecars import Sidecars

if TYPE_CHECKING:
    from esper_async.urza.columns import Columns

T = TypeVar("T")
Change = Callable[[Asset], Asset]


@dataclass(frozen=True, slots=True)
class IntegrityFailure:
    """Something that was found damaged: a "blob", a "row", the "audit" log or the "catalogue"."""

    what: str
    asset: str
    detail: str


class Shelves:
    """What `Library` does, without its breaker and statistics; blocking, thread-safe.

    Damage never raises. It is reported to `on_damage`, audited and made good where a second copy
    exists; otherwise the asset is quarantined and absent.
    """

    def __init__(
        self,
        directory: Path,
        *,
        actor: str,
        cache_bytes: int,
        now: Callable[[], float],
        on_damage: Callable[[IntegrityFailure], None],
        seal: Seal,
    ) -> None:
        self._actor = actor
        self._now = now
        self._local = threading.local()
        self._on_damage = on_damage
        self._blobs = BlobStore(directory)
        self._sidecars = Sidecars(directory)
        self._cache = ByteCache(cache_bytes)
        self._seal = seal
        self._columns: Columns | None = None
        self.audit = AuditLog(directory)
        self.database = Database(
            directory,
            rebuilder(self._sidecars, self.audit, now),
            schema_version=rows.SCHEMA_VERSION,
            on_rebuilt=lambda reason: on_damage(IntegrityFailure("catalogue", "", reason)),
        )

    def put(self, asset: Asset, content: bytes, *, sealed: bool) -> Asset:
        """Keep `content` under `asset.key`; `asset` says all but the version and the blob.

        Raises SealError when it is to be sealed and there is no key.
        """
        blob = hashlib.sha256(content).hexdigest()
        seal = self._seal.of(asset.key, blob) if sealed else ""

        def work(connection: sqlite3.Connection) -> Asset:
            newest = self._newest_healed(connection, asset.key)
            self._blobs.put(content)
            kept = replace(asset, blob=blob, seal=seal)
            if newest is not None:
                same = newest.blob == blob and newest.seal == seal
                if same and newest.lifecycle is not Lifecycle.QUARANTINED:
                    return newest
                kept = replace(kept, version=newest.version + 1)
            return self._keep(connection, kept, "put", {"blob": blob, "kind": kept.kind})

        kept = self._write(work)
        self._cache.drop(asset.key)
        return kept

    def adopt(self, versions: Sequence[tuple[Asset, bytes]], source: str) -> int:
        """Keep versions of other libraries as they are, where their key is unknown here.

        All in one transaction; those of one key must come together. Returns how many were kept.
        """

        def work(connection: sqlite3.Connection) -> int:
            known = {
                key: self._newest_healed(connection, key) is not None
                for key in {asset.key for asset, _ in versions}
            }
            new = [(asset, content) for asset, content in versions if not known[asset.key]]
            for asset, content in new:
                self._blobs.put(content)
                self._keep(connection, asset, "imported", {"from": source})
            return len(new)

        return self._write(work)

    def newest(self, key: str) -> Asset | None:
        """The latest version of `key`, whatever its state."""
        try:
            return self.database.read(lambda c: newest_or_damage(c, self._sidecars, key))
        except DamagedRecordError:
            return self._write(lambda c: self._newest_healed(c, key))

    def cached(self, key: str, *, sealed: bool) -> bytes | None:
        """The content if it is in memory and nothing has changed in the catalogue since."""
        entry = self._cache.get(key)
        if entry is None or (sealed and not entry.sealed):
            return None
        generation = self.database.generation_now()
        return entry.content if generation in (None, entry.generation) else None

    def read(self, key: str, *, sealed: bool) -> bytes | None:
        """The content of the newest version in force, from memory if its record is unchanged.

        A version with a seal is read only if that holds, and with `sealed` no other.
        """
        generation = self.database.generation()
        asset = self.newest(key)
        if asset is None or asset.lifecycle not in SERVED:
            self._cache.drop(key)
            return None
        if (asset.seal or sealed) and not self._seal.holds(asset):
            return None
        record_digest = digest_of(asset.to_json())
        entry = self._cache.get(key)
        if entry is not None and entry.record_digest == record_digest:
            content: bytes | None = entry.content
        else:
            content = self.content(asset)
        if content is None:
            return None
        self._cache.put(key, Entry(content, record_digest, generation, bool(asset.seal)))
        return content

    def content(self, asset: Asset) -> bytes | None:
        """The verified content of a version; one that is missing or damaged is quarantined."""
        content = self._blobs.read(asset.blob)
        if content is None:
            self._write(lambda connection: self._quarantine(connection, asset.id))
            content = self._blobs.read(asset.blob)
        return content

    def version(self, asset_id: str) -> Asset | None:
        """One version by its id."""
        try:
            return self.database.read(lambda c: rows.by_id(c, asset_id))
        except DamagedRecordError as damage:
            self.reconcile(str(damage))
        return self.database.read(lambda c: rows.by_id(c, asset_id))

    def find(self, query: Query, limit: int, check_time: Callable[[], None]) -> list[Asset]:
        """The versions that `query` admits, newest first; what `check_time` raises ends it."""
        from esper_async.urza.columns import Columns  # numpy: only where something is looked for

        def work(connection: sqlite3.Connection) -> list[Asset]:
            columns, opening = self._columns, self.database.openings
            if columns is None or columns.opening != opening or columns.mostly_replaced:
                columns = self._columns = Columns(opening)
            columns.refresh(connection, check_time)
            return columns.newest(connection, query, limit)

        try:
            return self.database.read(work)
        except DamagedRecordError as damage:
            self.reconcile(str(damage))
        return self.database.read(work)

    def change(
        self, asset_id: str, action: str, change: Change, detail: Mapping[str, object]
    ) -> Asset:
        """Replace what is said about a version. Raises UnknownAssetError."""
        current = self.version(asset_id)
        if current is None:
            raise UnknownAssetError(asset_id)

        def work(connection: sqlite3.Connection) -> Asset:
            asset = rows.by_id(connection, asset_id)
            if asset is None:
                raise UnknownAssetError(asset_id)
            changed = change(asset)
            if changed == asset:
                return asset
            return self._keep(
                connection, replace(changed, revision=asset.revision + 1), action, detail
            )

        changed = self._write(work)
        self._cache.drop(changed.key)
        return changed

    def reconcile(self, reason: str) -> Repairs:
        """Mend rows and sidecars from each other."""
        repairs = reconcile(self.database, self._sidecars)
        if repairs.damaged_rows or repairs.restored_rows:
            detail = (
                f"{reason}: {repairs.damaged_rows} damaged rows, "
                f"{repairs.restored_rows} restored from sidecars"
            )
            self._write(lambda connection: self._report(connection, "row", "", detail))
        return repairs

    def check_structure(self) -> str | None:
        """Ask SQLite to check its own structure; rebuild, and say why, when it is not whole."""
        found = self.database.read(
            lambda c: str(c.execute("PRAGMA integrity_check(1)").fetchone()[0])
        )
        if found == "ok":
            return None
        self.database.rebuild(found)
        return found

    def mend_audit(self) -> AuditRepairs:
        """Restore damaged audit entries from their second copy."""

        def work(connection: sqlite3.Connection) -> AuditRepairs:
            repairs = self.audit.mend(connection)
            if repairs.damaged_rows or repairs.restored_rows:
                found = f"{repairs.damaged_rows} damaged, {repairs.restored_rows} restored"
                self._report(connection, "audit", "", found)
            return repairs

        return self._write(work)

    def everything(self) -> Iterator[Asset]:
        """All versions whose rows are intact."""
        return iter(self.database.read(rows.everything)[0])

    def collect_garbage(self, min_age_s: float) -> garbage.Collected:
        """Delete what nobody can be served and nobody refers to."""
        now = self._now()
        return self._write(
            lambda c: garbage.collect(
                c, self._sidecars, self._blobs, now, min_age_s, functools.partial(self._note, c)
            )
        )

    def close(self) -> None:
        """Close the database and forget what is in memory."""
        self.database.close()
        self._cache.clear()

    def _newest_healed(self, connection: sqlite3.Connection, key: str) -> Asset | None:
        try:
            return newest_or_damage(connection, self._sidecars, key)
        except DamagedRecordError as damage:
            newest = heal_key(connection, self._sidecars, key)
            self._report(connection, "row", key, str(damage))
            return newest

    def _quarantine(self, connection: sqlite3.Connection, asset_id: str) -> None:
        asset = rows.by_id(connection, asset_id)
        if asset is None or asset.lifecycle is Lifecycle.QUARANTINED:
            return
        if self._blobs.read(asset.blob) is not None:  # somebody has put it again meanwhile
            return
        moved_to = self._blobs.quarantine(asset.blob)
        detail = "the blob is missing" if moved_to is None else f"damaged, kept as {moved_to.name}"
        withdrawn = replace(asset, lifecycle=Lifecycle.QUARANTINED, revision=asset.revision + 1)
        self._keep(connection, withdrawn, "quarantined", {})
        self._report(connection, "blob", asset_id, detail)
        self._cache.drop(asset.key)

    def _keep(
        self,
        connection: sqlite3.Connection,
        asset: Asset,
        action: str,
        detail: Mapping[str, object],
    ) -> Asset:
        """Write sidecar, row and audit entry; the sidecar first, from which a lost row returns."""
        asset.to_json()  # refuses NaN before anything is written
        self._sidecars.write(asset)
        rows.store(connection, asset)
        self._note(connection, action, asset.id, detail)
        return asset

    def _note(
        self,
        connection: sqlite3.Connection,
        action: str,
        asset: str,
        detail: Mapping[str, object],
    ) -> None:
        self.audit.note(connection, self._now(), self._actor, action, asset, detail)

    def _report(self, connection: sqlite3.Connection, what: str, asset: str, detail: str) -> None:
        failure = {"what": what, "detail": detail}
        self._note(connection, "integrity_failure", asset, failure)
        self._local.failures.append(IntegrityFailure(what, asset, detail))

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """One transaction; what it reports is announced once it is committed."""
        failures: list[IntegrityFailure] = []

        def fresh(connection: sqlite3.Connection) -> T:
            failures.clear()
            self._local.failures = failures
            return work(connection)

        result = self.database.write(fresh)
        for failure in failures:
            self._on_damage(failure)
        return result
