"""Where policy updates are verified, staged, let through and taken back. Torch-free.

An update names a policy of Simic's registry. What passes the desk's own checks is staged: runs ask
it beside their policy on live states, without effect, and tell what it did. What did no worse
becomes active; what turns out worse within its first boundaries gives way to the one before it.
The book is written whole after each step, so that no death leaves half of one; an update, or a
run's record, that comes again changes nothing.
"""

import copy
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from esper_async.leyline import PolicyUpdate
from esper_async.leyline.signing import Signer
from esper_async.runtime.files import write_atomically
from esper_async.tamiyo.desk_book import DeskBook, Rules, Version, desk_form, read_desk
from esper_async.tamiyo.errors import CorruptPolicyError
from esper_async.tamiyo.feature_versions import GRAPH_VERSION, PLACEMENT_VERSION
from esper_async.tamiyo.published import KINDS, SHIPPED, Event, check_known, read_book, read_content
from esper_async.tamiyo.shadow_tally import ShadowTally

_LOG = structlog.get_logger(__name__)
KNOWN_FEATURES = (PLACEMENT_VERSION, GRAPH_VERSION)
HISTORY_KEPT = 1_000
RUNS_KEPT = 10_000
TELLING = SHADOWED, ACTIVATED, WATCHED = "policy_shadowed", "policy_activated", "policy_watched"
"""Records in which runs tell of updates."""


class PolicyUpdateRefusedError(ValueError):
    """An update is not taken; the message says why."""


class PolicyDesk:
    """The updates of one installation. Blocking; changes from several threads wait for each other.

    Args:
        path: of its book.
        registry: the folder of Simic's registry.
        signer: with the installation's key.
        rules: how a policy takes over.
        now: Unix time in seconds.
    """

    def __init__(
        self,
        path: Path,
        registry: Path,
        signer: Signer,
        *,
        rules: Rules | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._registry = registry
        self._signer = signer
        self._rules = rules or Rules()
        self._now = now
        self._book = DeskBook(self._rules)
        self._lock = threading.Lock()

    @property
    def book(self) -> DeskBook:
        """What holds now. Not to be changed."""
        return self._book

    def open(self) -> None:
        """Read the book, and sign it with today's key; one that was changed is begun anew.

        Raises:
            OSError: the disk refused.
        """
        try:
            self._book = read_desk(self._path, self._signer) or DeskBook(self._rules)
        except CorruptPolicyError as error:
            _LOG.error("policy_desk_begun_anew", reason=str(error))
            self._book = DeskBook(self._rules)
        with self._changing() as book:
            book.rules = self._rules

    def take(self, update: PolicyUpdate) -> bool:
        """Take an update: stage its policy, or activate one that was sound before.

        Returns whether it was new.

        Raises:
            PolicyUpdateRefusedError: it is not to be believed, or not for this program; the refusal
                is on record.
            OSError: the disk refused; nothing was taken.
        """
        if update.update_id in self._book.heard:
            return False
        try:
            self._verify(update)
        except PolicyUpdateRefusedError as refusal:
            with self._changing() as book:
                self._hear(book, update, "refused", str(refusal))
            raise
        with self._changing() as book:
            self._stage(book, update)
        return True

    def fold(self, run_id: str, record: Mapping[str, Any]) -> None:
        """Take in what a run tells of an update; a record that was taken in changes nothing.

        One that does not hold what it must, of a run of another version, counts as read.

        Raises:
            OSError: the disk refused; nothing was taken in.
        """
        if record["seq"] <= self.folded_of(run_id):
            return
        try:
            with self._changing() as book:
                _FOLDS[record["kind"]](self, book, run_id, record)
                _count_read(book, run_id, record["seq"])
        except (KeyError, TypeError, ValueError) as error:
            _LOG.error("policy_record_malformed", run=run_id, seq=record["seq"], error=repr(error))
            with self._changing() as book:
                _count_read(book, run_id, record["seq"])

    def folded_of(self, run_id: str) -> int:
        """Return the number of a run's newest record that was taken in; 0 for none."""
        return self._book.folded.get(run_id, 0)

    def to_withdraw(self) -> list[Version]:
        """Return what was rejected here and the registry may still hold for active."""
        versions = self._book.versions.values()
        return [each for each in versions if each.stage == "rejected" and not each.withdrawn]

    def withdrawn(self, policy_id: str) -> None:
        """Note that the registry knows of a rejection. Raises OSError."""
        with self._changing() as book:
            book.move(policy_id, "rejected", book.versions[policy_id].since, withdrawn=True)

    # -- an update -----------------------------------------------------------------------------

    def _verify(self, update: PolicyUpdate) -> None:
        """Raise PolicyUpdateRefusedError unless the registry stands behind an update."""
        features, policy_id = update.schema_digest, update.policy_version
        if features not in KNOWN_FEATURES:
            raise PolicyUpdateRefusedError(
                f"it decides by the features {features!r}, and this program has "
                f"{', '.join(KNOWN_FEATURES)}: learn anew with this program"
            )
        try:
            registry = read_book(self._registry, self._signer)
            active = registry.active_of(features)
            if active != policy_id:
                raise PolicyUpdateRefusedError(
                    f"the registry does not say so: {active} is active there for {features}"
                )
            if policy_id == SHIPPED:
                return
            entry = check_known(registry, policy_id)
            if entry.sha256 != update.artifact_sha256.hex():
                raise PolicyUpdateRefusedError(
                    f"its checksum is {update.artifact_sha256.hex()[:12] or 'missing'}, and "
                    f"{entry.sha256[:12]} in the registry"
                )
            if update.validation_id not in entry.records:
                raise PolicyUpdateRefusedError(
                    f"its validation record {update.validation_id[:12]!r} is not in the registry"
                )
            document = read_content(self._registry, entry.sha256)
        except (CorruptPolicyError, LookupError) as error:
            raise PolicyUpdateRefusedError(str(error)) from error
        if document.get("features") != features:
            raise PolicyUpdateRefusedError(
                f"its file decides by the features {document.get('features')!r}, not {features!r}"
            )
        if document.get("kind") not in KINDS:
            raise PolicyUpdateRefusedError(
                f"its file is of the kind {document.get('kind')!r}; this program has "
                f"{', '.join(KINDS)}"
            )

    def _stage(self, book: DeskBook, update: PolicyUpdate) -> None:
        features, policy_id = update.schema_digest, update.policy_version
        waiting = book.staged.pop(features, None)
        if waiting is not None and waiting != policy_id:
            book.move(waiting, "retired", self._now(), shadow=None, reason="another came")
        if policy_id == book.active_of(features):
            self._hear(book, update, "confirmed", "it is active")
            return
        known = book.versions.get(policy_id)
        if policy_id == SHIPPED or (known is not None and _was_sound(known)):
            self._hear(book, update, "activated", "it has decided before")
            self._activate(book, features, policy_id)
            return
        book.versions[policy_id] = Version(
            policy_id,
            features,
            update.artifact_sha256.hex(),
            update.update_id,
            "staged",
            self._now(),
        )
        book.staged[features] = policy_id
        words = f"after {update.parent_version or 'nothing'}; it is asked beside the active one"
        self._hear(book, update, "staged", words)

    def _hear(self, book: DeskBook, update: PolicyUpdate, what: str, why: str) -> None:
        """Note what became of an update, in the same write as its effect."""
        book.heard.append(update.update_id)
        del book.heard[:-HISTORY_KEPT]
        self._tell(book, update.policy_version, update.schema_digest, what, why)

    # -- what runs tell ------------------------------------------------------------------------

    def _shadowed(self, book: DeskBook, run_id: str, record: Mapping[str, Any]) -> None:
        version = book.versions.get(record["version"])
        if version is None or version.stage != "staged" or version.update != record["update"]:
            return
        tally = ShadowTally.from_json(record["tally"])
        if version.shadow is not None:
            before = ShadowTally.from_json(version.shadow)
            before.merge(tally)
            tally = before
        book.move(version.id, "staged", version.since, shadow=tally.to_json())
        if not tally.settled(book.rules.shadow_states):
            return
        del book.staged[version.features]
        asked = f"asked about {tally.new.decisions} live states, last in run {run_id}"
        found = tally.faults()
        if found:
            self._reject(book, version, f"{asked}: {'; '.join(found)}")
            return
        self._tell(book, version.id, version.features, "activated", f"sound: {asked}")
        self._activate(book, version.features, version.id)

    def _watched(self, book: DeskBook, run_id: str, record: Mapping[str, Any]) -> None:
        version = book.versions.get(record["version"])
        if version is None or book.active_of(version.features) != version.id:
            return
        if not record["regressions"]:
            book.move(version.id, "active", version.since, settled=True)
            words = f"sound for {record['conduct']['decisions']} boundaries of run {run_id}"
            self._tell(book, version.id, version.features, "settled", words)
            return
        before = book.previous.setdefault(version.features, [])
        former = next((each for each in reversed(before) if _may_return(book, each)), SHIPPED)
        while before and before.pop() != former:
            pass
        book.active[version.features] = former
        book.move(former, "active", self._now())
        self._reject(book, version, f"in run {run_id}: {'; '.join(record['regressions'])}")
        self._tell(book, former, version.features, "put back", f"{version.id} was rolled back")

    def _took_over(self, book: DeskBook, run_id: str, record: Mapping[str, Any]) -> None:
        words = f"in run {run_id}, at boundary {record['boundary']}: {record['reason']}"
        self._tell(book, record["version"], record["features"], "took over", words)

    # -- steps ---------------------------------------------------------------------------------

    def _activate(self, book: DeskBook, features: str, policy_id: str) -> None:
        left = book.active_of(features)
        before = book.previous.setdefault(features, [])
        before.append(left)
        del before[:-HISTORY_KEPT]
        book.move(left, "retired", self._now())
        book.move(policy_id, "active", self._now(), reason="")
        book.active[features] = policy_id
        book.trouble.pop(features, None)

    def _reject(self, book: DeskBook, version: Version, why: str) -> None:
        book.move(version.id, "rejected", self._now(), reason=why)
        self._tell(book, version.id, version.features, "rejected", why)
        book.trouble[version.features] = book.history[-1]

    def _tell(self, book: DeskBook, policy_id: str, features: str, what: str, why: str) -> None:
        book.history.append(Event(self._now(), policy_id, features, what, why))
        del book.history[:-HISTORY_KEPT]

    @contextmanager
    def _changing(self) -> Iterator[DeskBook]:
        """Change a copy of the book; it holds once it is on disk."""
        with self._lock:
            book = copy.deepcopy(self._book)
            yield book
            write_atomically(self._path, desk_form(book, self._signer))
            self._book = book


def _count_read(book: DeskBook, run_id: str, seq: int) -> None:
    book.folded.pop(run_id, None)
    book.folded[run_id] = seq
    for oldest in list(book.folded)[:-RUNS_KEPT]:
        del book.folded[oldest]


def _was_sound(version: Version) -> bool:
    """Whether a policy has been let through before, and nothing was found since."""
    return version.stage in ("active", "retired") and version.shadow is not None


def _may_return(book: DeskBook, policy_id: str) -> bool:
    return policy_id == SHIPPED or book.versions[policy_id].stage != "rejected"


_FOLDS: Mapping[str, Callable[[PolicyDesk, DeskBook, str, Mapping[str, Any]], None]] = {
    SHADOWED: PolicyDesk._shadowed,
    WATCHED: PolicyDesk._watched,
    ACTIVATED: PolicyDesk._took_over,
}
