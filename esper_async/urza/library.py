"""The library itself: put, get, find, change, with every read verified."""

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from esper_async.leyline.signing import Signer
from esper_async.runtime.breaker import BreakerPolicy, CircuitBreaker
from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.errors import BreakerOpen
from esper_async.urza import rows
from esper_async.urza.archive import Archive, Exported, Imported, by_key, write_archive
from esper_async.urza.audit import AuditEntry
from esper_async.urza.errors import IllegalLifecycleError, QueryTimeoutError, UnknownAssetError
from esper_async.urza.garbage import Collected
from esper_async.urza.query import IDENTITY, Choice, Query
from esper_async.urza.records import (
    FORWARD_FLOPS,
    FORWARD_MS,
    NEXT,
    PARAMETERS,
    SERVED,
    Asset,
    Lifecycle,
    canonical,
)
from esper_async.urza.seal import Seal
from esper_async.urza.shelves import IntegrityFailure, Shelves
from esper_async.urza.sweep import SweepReport, sweep

P = ParamSpec("P")
T = TypeVar("T")

CERTIFICATE, PASSED, FAILED = "certificate", "passed", "failed"
EVERYTHING = Query()
DISK_POLICY = BreakerPolicy(timeout_s=5.0)


def speaks_against_the_disk(error: Exception) -> bool:
    """Whether an error is a failure of the library's breaker."""
    return isinstance(error, OSError | sqlite3.Error)


@dataclass(slots=True)
class Statistics:
    """What this process has asked of the library."""

    reads: int = 0
    cache_hits: int = 0
    integrity_failures: int = 0

    @property
    def hit_ratio(self) -> float | None:
        """The share of reads answered from memory; None before the first."""
        return self.cache_hits / self.reads if self.reads else None


class Library:
    """Immutable versioned assets under `directory`; several processes may use one directory.

    `actor` is the name under which changes are audited. `on_query` is told the
    milliseconds of each call that went to disk, `on_damage` what was found damaged. `signer` holds
    the local key, without which nothing sealed can be put or read.
    Thread-safe; calls block on the disk (a coroutine calls from a thread).

    Every call that reaches the disk goes through one circuit breaker (`breaker`, by default one of
    its own with `DISK_POLICY` and `speaks_against_the_disk`) and may raise BreakerOpen,
    OSError or sqlite3.Error. What is damaged raises nothing: it is quarantined, audited, counted,
    and absent until somebody puts it again.
    """

    def __init__(
        self,
        directory: Path,
        *,
        actor: str = "library",
        cache_bytes: int = 16 << 20,
        clock: Clock | None = None,
        on_query: Callable[[float], None] | None = None,
        breaker: CircuitBreaker | None = None,
        on_damage: Callable[[IntegrityFailure], None] | None = None,
        signer: Signer | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.actor = actor
        self.statistics = Statistics()
        self._clock: Clock = clock or SystemClock()
        self._on_query = on_query
        self._on_damage = on_damage
        self._shelves = Shelves(
            directory,
            actor=actor,
            cache_bytes=cache_bytes,
            now=self._clock.time,
            on_damage=self._damage_found,
            seal=Seal(signer),
        )
        self.breaker = breaker or CircuitBreaker(
            "urza", DISK_POLICY, clock=self._clock, is_failure=speaks_against_the_disk
        )

    def put(
        self,
        key: str,
        content: bytes,
        *,
        kind: str,
        blueprint: str = "",
        interface: str = "",
        lifecycle: Lifecycle = Lifecycle.ACTIVE,
        tags: tuple[str, ...] = (),
        parents: tuple[str, ...] = (),
        performance: Mapping[str, float] | None = None,
        tier: str = "",
        stage: int | None = None,
        risk: float | None = None,
        sealed: bool = False,
    ) -> Asset:
        """Keep `content` as the next version of `key`; durable when this returns.

        Putting the content that the newest version already has makes no new version. What is
        `sealed` can be read with this installation's key alone, and is never exported.
        Raises ValueError for a performance figure that is not finite, SealError without a key.
        """

        asset = Asset(
            key=key,
            version=1,
            kind=kind,
            blob="",
            size_bytes=len(content),
            created_at=self._clock.time(),
            blueprint=blueprint,
            interface=interface,
            lifecycle=lifecycle,
            tags=tuple(sorted(set(tags))),
            parents=parents,
            performance=dict(performance or {}),
            tier=tier,
            stage=stage,
            risk=risk,
        )
        return self._guarded(self._shelves.put, asset, content, sealed=sealed)

    def get(self, key: str) -> Asset | None:
        """The newest version of `key` if it is in force, its record verified."""
        asset = self._guarded(self._shelves.newest, key)
        return asset if asset is not None and asset.lifecycle in SERVED else None

    def read(self, key: str, *, sealed: bool = False) -> bytes | None:
        """The verified content of the newest version of `key`; None when absent or damaged.

        With `sealed`, also None unless this installation has made it: what may run code is read
        in no other way. A hit in memory takes microseconds and touches no disk.
        """
        self.statistics.reads += 1
        content = self._shelves.cached(key, sealed=sealed)
        if content is not None:
            self.statistics.cache_hits += 1
            return content
        return self._guarded(self._shelves.read, key, sealed=sealed)

    def put_certificate(
        self,
        key: str,
        record: Mapping[str, Any],
        *,
        blueprint: str,
        interface: str,
        tier: str = "",
        stage: int | None = None,
        risk: float | None = None,
    ) -> Asset:
        """Keep a kernel's certificate (JSON-able; raises ValueError or TypeError if it is not).

        What it measured is what budgets are held against; the tag says whether it `passed`.
        """
        measured = (PARAMETERS, FORWARD_FLOPS, FORWARD_MS)
        return self.put(
            key,
            canonical(dict(record)).encode(),
            kind=CERTIFICATE,
            blueprint=blueprint,
            interface=interface,
            tags=(PASSED if record.get("passed") else FAILED,),
            performance={name: record[name] for name in measured if record.get(name) is not None},
            tier=tier,
            stage=stage,
            risk=risk,
        )

    def certificate(self, key: str) -> dict[str, Any] | None:
        """The certificate under `key`; None when there is none that is intact and in force."""
        content = self.read(key)
        if content is None:
            return None
        record: dict[str, Any] = json.loads(content)
        return record

    def find(self, query: Query = EVERYTHING, *, limit: int = 1000) -> list[Asset]:
        """The assets that `query` admits, newest first, their records verified."""
        return self._guarded(self._shelves.find, query, limit, _patient)

    def choose(self, query: Query, *, timeout_s: float = 0.5) -> Choice:
        """The newest certified kernel in force that `query` admits, or else the identity.

        Never raises for trouble: an answer that is late, a disk that fails or a library that has
        nothing safe yields the identity, and says so.
        """
        late = self._clock.monotonic() + timeout_s

        def check_time() -> None:
            if self._clock.monotonic() > late:
                raise QueryTimeoutError(f"the library has not answered within {timeout_s:g} s")

        safe = replace(query, kind=CERTIFICATE, tag=PASSED, in_force=True)
        try:
            found = self._guarded(self._shelves.find, safe, 1, check_time)
            check_time()
        except (QueryTimeoutError, BreakerOpen, OSError, sqlite3.Error) as trouble:
            return Choice(IDENTITY, None, str(trouble))
        if not found:
            return Choice(IDENTITY, None, "nothing in the library is all that was asked for")
        return Choice(found[0].blueprint, found[0])

    def lineage(self, asset_id: str) -> list[Asset]:
        """The asset and what it was made from, nearest first; ancestors that are gone are left out.

        Raises UnknownAssetError.
        """

        def query() -> list[Asset]:
            found: dict[str, Asset] = {}
            waiting = [asset_id]
            while waiting:
                name = waiting.pop(0)
                asset = self._shelves.version(name)
                if asset is not None and name not in found:
                    found[name] = asset
                    waiting.extend(asset.parents)
            if asset_id not in found:
                raise UnknownAssetError(asset_id)
            return list(found.values())

        return self._guarded(query)

    def advance(self, asset_id: str, lifecycle: Lifecycle, *, reason: str) -> Asset:
        """Move an asset on in its lifecycle. Raises UnknownAssetError, IllegalLifecycleError."""

        def change(asset: Asset) -> Asset:
            if lifecycle not in NEXT[asset.lifecycle]:
                raise IllegalLifecycleError(asset_id, asset.lifecycle, lifecycle)
            return replace(asset, lifecycle=lifecycle)

        return self._guarded(
            self._shelves.change, asset_id, lifecycle.value, change, {"reason": reason}
        )

    def tag(self, asset_id: str, *tags: str) -> Asset:
        """Add tags. Raises UnknownAssetError."""
        return self._guarded(
            self._shelves.change,
            asset_id,
            "tag",
            lambda asset: replace(asset, tags=tuple(sorted({*asset.tags, *tags}))),
            {"tags": tags},
        )

    def measure(self, asset_id: str, **performance: float) -> Asset:
        """Record measured figures, named with their units (`forward_ms`). Raises as `tag`."""
        return self._guarded(
            self._shelves.change,
            asset_id,
            "measure",
            lambda asset: replace(asset, performance={**asset.performance, **performance}),
            dict(performance),
        )

    def hold(self, asset_id: str, holder: str) -> Asset:
        """Say that `holder` (a run, a record) refers to the asset: it will not be collected."""
        return self._guarded(
            self._shelves.change,
            asset_id,
            "hold",
            lambda asset: replace(asset, holders=tuple(sorted({*asset.holders, holder}))),
            {"holder": holder},
        )

    def release(self, asset_id: str, holder: str) -> Asset:
        """Take a `hold` back. Raises UnknownAssetError."""
        return self._guarded(
            self._shelves.change,
            asset_id,
            "release",
            lambda asset: replace(asset, holders=tuple(h for h in asset.holders if h != holder)),
            {"holder": holder},
        )

    def audit(self, *, asset_id: str | None = None, limit: int = 100) -> list[AuditEntry]:
        """The latest changing accesses, newest first."""
        shelves = self._shelves
        return self._guarded(
            shelves.database.read, lambda c: shelves.audit.latest(c, asset_id, limit)
        )

    def counts(self) -> dict[str, dict[str, int]]:
        """How many assets there are by lifecycle and by kind."""
        columns = ("lifecycle", "kind")
        database = self._shelves.database
        return self._guarded(
            database.read, lambda c: {name: rows.count_by(c, name) for name in columns}
        )

    def verify(self, pause: Callable[[], None] | None = None) -> SweepReport:
        """Check the whole library: database structure, every row, sidecar and blob.

        `pause` is called between blobs, so that a sweep in the background can be gentle.
        """
        return sweep(self._shelves, self.breaker, pause)

    def collect_garbage(self, *, min_age_s: float = 86_400.0) -> Collected:
        """Delete what nobody can be served and nobody refers to, once older than `min_age_s`."""
        return self._guarded(self._shelves.collect_garbage, min_age_s)

    def export_to(self, path: Path) -> Exported:
        """Write all that may leave this installation to one archive. Raises OSError."""
        assets = self._guarded(lambda: list(self._shelves.everything()))
        kept = [asset for asset in assets if asset.lifecycle is not Lifecycle.QUARANTINED]
        return write_archive(path, kept, lambda asset: self._guarded(self._shelves.content, asset))

    def import_from(self, path: Path) -> Imported:
        """Take in what an archive holds under keys that are unknown here.

        The whole archive is verified before anything is taken in; what was interrupted can be
        repeated. Raises ArchiveError when any of it is not as it was written, FileNotFoundError
        when there is none.
        """
        with Archive(path) as archive:
            sealed = [asset for asset in archive.assets if asset.seal]
            offered = [replace(each, holders=()) for each in archive.assets if not each.seal]
            count = 0
            for versions in by_key(offered):
                entries = [(asset, archive.content(asset)) for asset in versions]
                count += self._guarded(self._shelves.adopt, entries, path.name)
        return Imported(count, len(offered) - count, len(sealed))

    def close(self) -> None:
        """Close the database; a later call opens it again."""
        self._shelves.close()

    def _guarded(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        started = self._clock.monotonic()
        result = self.breaker.call_sync(function, *args, **kwargs)
        if self._on_query is not None:
            self._on_query((self._clock.monotonic() - started) * 1000.0)
        return result

    def _damage_found(self, failure: IntegrityFailure) -> None:
        self.statistics.integrity_failures += 1
        if self._on_damage is not None:
            self._on_damage(failure)


def _patient() -> None:
    """Wait as long as it takes."""
