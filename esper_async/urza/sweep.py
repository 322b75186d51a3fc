"""Checking the whole library: structure, rows, sidecars, audit log and blobs."""

from collections.abc import Callable
from dataclasses import dataclass

from esper_async.runtime.breaker import CircuitBreaker
from esper_async.urza.records import Lifecycle
from esper_async.urza.shelves import Shelves


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What one sweep looked at and what it mended.

    `rebuilt` is why the catalogue was rebuilt, None when it was whole; `lost_blobs` are the ids
    of the assets that were quarantined and wait to be made again.
    """

    checked: int
    rebuilt: str | None
    damaged_rows: int
    restored_rows: int
    rewritten_sidecars: int
    damaged_audit: int
    restored_audit: int
    rewritten_audit: bool
    lost_blobs: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing had to be mended."""
        mended = (
            self.damaged_rows
            or self.restored_rows
            or self.rewritten_sidecars
            or self.damaged_audit
            or self.restored_audit
            or self.rewritten_audit
        )
        return self.rebuilt is None and not mended and not self.lost_blobs


def sweep(
    shelves: Shelves, breaker: CircuitBreaker, pause: Callable[[], None] | None = None
) -> SweepReport:
    """Check everything once, step by step through the breaker; `pause` between blobs."""
    rebuilt = breaker.call_sync(shelves.check_structure)
    repairs = breaker.call_sync(shelves.reconcile, "found by a sweep")
    audit = breaker.call_sync(shelves.mend_audit)
    checked = 0
    lost: list[str] = []
    for asset in breaker.call_sync(shelves.everything):
        if asset.lifecycle is Lifecycle.QUARANTINED:
            continue
        checked += 1
        if breaker.call_sync(shelves.content, asset) is None:
            lost.append(asset.id)
        if pause is not None:
            pause()
    return SweepReport(
        checked=checked,
        rebuilt=rebuilt,
        damaged_rows=repairs.damaged_rows,
        restored_rows=repairs.restored_rows,
        rewritten_sidecars=repairs.rewritten_sidecars,
        damaged_audit=audit.damaged_rows,
        restored_audit=audit.restored_rows,
        rewritten_audit=audit.rewritten,
        lost_blobs=tuple(lost),
    )
