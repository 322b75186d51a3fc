"""Tells the controller over the bus which policy the registry lets decide, when that changes.

The registry's book is the source, and any process may change it: it is looked at again and again.
An update's id follows from the change that it tells of, so that telling it twice is telling it
once: after a death, or for a reader that lost what it knew, it is simply told again.
"""

import hashlib

from esper_async.leyline import SCHEMA_VERSION, PolicyUpdate
from esper_async.simic.registry import PolicyRegistry
from esper_async.tamiyo.feature_versions import PLACEMENT_VERSION
from esper_async.tamiyo.published import Book, Event
from esper_async.tamiyo.shipped import SHIPPED_SHA256

ISSUER = "simic"
_LETS_DECIDE = ("published", "restored", "put back")
_IS_A_RETURN = ("restored", "put back")


class Announcements:
    """What has to be told of a registry. Blocking; belongs to one thread at a time.

    Args:
        registry: whose policies are told of.
    """

    def __init__(self, registry: PolicyRegistry) -> None:
        self._registry = registry
        self._seen: tuple[int, ...] | None = None
        self._told: set[str] = set()

    def due(self) -> list[PolicyUpdate]:
        """Return the updates that have not been told since this object was made.

        Raises:
            CorruptPolicyError: the registry cannot be believed.
            OSError: it cannot be read.
        """
        seen = self._registry.changed_at()
        if seen == self._seen:
            return []
        book = self._registry.book()
        found = [each for each in updates_of(book) if each.update_id not in self._told]
        self._seen = seen
        return found

    def told(self, update: PolicyUpdate) -> None:
        """Note that an update is safe in the spool."""
        self._told.add(update.update_id)

    def again(self) -> None:
        """Look once more, though nothing was changed: something could not be told."""
        self._seen = None


def updates_of(book: Book) -> list[PolicyUpdate]:
    """Return, for each version of the features, the update that tells what decides now."""
    latest = {
        event.features: event for event in book.history if event.what in _LETS_DECIDE
    }  # the newest of each
    return [
        _update(book, event)
        for features, event in latest.items()
        if book.active_of(features) == event.id
    ]


def _update(book: Book, event: Event) -> PolicyUpdate:
    entry = book.entries.get(event.id)
    before = book.previous.get(event.features, [])
    update = PolicyUpdate(
        version=SCHEMA_VERSION,
        update_id=_id_of(event),
        policy="shipped" if entry is None else entry.kind,
        policy_version=event.id,
        parent_version=before[-1] if before else "",
        schema_digest=event.features,
        rollback=event.what in _IS_A_RETURN,
        issued_at=event.at,
        issued_by=ISSUER,
    )
    if entry is not None:
        update.artifact_sha256 = bytes.fromhex(entry.sha256)
        update.validation_id = entry.records[-1]
    elif event.features == PLACEMENT_VERSION:
        update.artifact_sha256 = bytes.fromhex(SHIPPED_SHA256)
    return update


def _id_of(event: Event) -> str:
    text = f"{event.features}/{event.id}/{event.at!r}"
    return f"{event.id}/{hashlib.sha256(text.encode()).hexdigest()[:12]}"
