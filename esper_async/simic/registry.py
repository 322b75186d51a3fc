"""The registry of learned policies: what passed the gate may decide, and any earlier one again.

A policy is published with what it came from and with the record of its validation; one that failed
is kept with its record, too, and can never be activated. Files are written before the book that
names them, and the book whole, so that no death leaves half of a step. Torch-free.
"""

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from esper_async.leyline.keys import load_signer
from esper_async.leyline.signing import Signer
from esper_async.runtime.files import write_atomically
from esper_async.tamiyo.desk_book import DeskBook, desk_path, read_desk
from esper_async.tamiyo.errors import CorruptPolicyError
from esper_async.tamiyo.feature_versions import PLACEMENT_VERSION
from esper_async.tamiyo.published import (
    SHIPPED,
    Book,
    Entry,
    Event,
    State,
    check_known,
    content_path,
    decider,
    read_book,
    read_content,
    registry_path,
    sha256_of,
    write_form,
)
from esper_async.tamiyo.shipped import SHIPPED_SHA256, shipped_document

_LINEAGE = ("data", "reward_version", "code", "command")
_ID_DIGITS = 12
_CAME_ALONG = "came along"
HISTORY_KEPT = 1_000


class LineageError(ValueError):
    """A policy does not say what it came from."""


class NotValidatedError(ValueError):
    """A policy has not passed the gate, and may not decide."""


class PolicyRegistry:
    """The policies of an installation. Blocking; several processes may use one at the same time.

    Args:
        folder: where the book and the files are.
        signer: with the installation's key.
        desk: the controller's book of updates, which lists tell of, too.
        now: Unix time in seconds.
    """

    def __init__(
        self,
        folder: Path,
        signer: Signer,
        *,
        desk: Path | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._signer = signer
        self._desk = desk
        self._now = now

    @classmethod
    def of(cls, state_dir: Path) -> "PolicyRegistry":
        """Open that of a state directory, with its key, which is made if there is none.

        Raises:
            OSError, ValueError: the key cannot be used.
        """
        state_dir.mkdir(parents=True, exist_ok=True)
        signer = load_signer(state_dir / "leyline.key")
        return cls(registry_path(state_dir), signer, desk=desk_path(state_dir))

    def book(self) -> Book:
        """Return all that is known. Raises CorruptPolicyError: it cannot be believed."""
        return read_book(self._folder, self._signer)

    def document(self, policy_id: str) -> dict[str, Any]:
        """Return a policy as it was published.

        Raises:
            LookupError: there is none of that id.
            CorruptPolicyError: its file, or the book, was changed.
        """
        return read_content(self._folder, check_known(self.book(), policy_id).sha256)

    def record(self, policy_id: str) -> dict[str, Any]:
        """Return a policy's last validation record; raises as `document` does."""
        return read_content(self._folder, check_known(self.book(), policy_id).records[-1])

    def submit(self, document: Mapping[str, Any], record: Mapping[str, Any]) -> Entry:
        """Keep a policy with its validation record; one that passed becomes the active one.

        The same policy with the same record is kept once, so that a death may be followed by the
        whole step again.

        Args:
            document: its `kind`, its `features`, what it decides by, and its `lineage`.
            record: `passes` says whether it may decide, `reasons` in words why not, `active` what
                it was compared with.

        Raises:
            LineageError: the policy does not say what it came from.
            NotValidatedError: it passed beside another policy than the one that is active now.
            CorruptPolicyError: the book cannot be believed.
        """
        lineage = _checked_lineage(document)
        content, told = _form(document), _form(record)
        sha256, kind = sha256_of(content), str(document["kind"])
        features, passes = str(document["features"]), record["passes"] is True
        policy_id = f"{kind}-{sha256[:_ID_DIGITS]}"
        with self._changing() as book:
            known = book.entries.get(policy_id)
            if known is not None and sha256_of(told) in known.records:
                return known
            beside, active = str(record["active"]), book.active_of(features)
            if passes and beside != active and policy_id != active:
                raise NotValidatedError(
                    f"{policy_id} was compared with {beside}, and {active} has become active "
                    "since: `learn` again compares it with that"
                )
            for each in (content, told):
                write_atomically(content_path(self._folder, sha256_of(each)), each)
            if known is None:
                known = Entry(
                    policy_id, kind, features, sha256, "refused", active, (), lineage, self._now()
                )
            book.entries[policy_id] = replace(known, records=(*known.records, sha256_of(told)))
            if passes:
                self._let_decide(book, features, policy_id, "published", "it passed the gate")
            elif known.state == "refused":
                reasons = "; ".join(map(str, record["reasons"]))
                self._tell(book, policy_id, features, "refused", reasons)
            else:
                self._tell(book, policy_id, features, "judged again", "it did not pass this time")
            return book.entries[policy_id]

    def activate(self, policy_id: str, *, features: str = "", reason: str = "asked for") -> None:
        """Let an earlier policy decide in runs that begin from now on.

        Args:
            policy_id: one that has passed; or "shipped", for what comes with the program.
            features: which features "shipped" is meant for, where several have a policy.
            reason: for the history.

        Raises:
            LookupError: there is no such policy.
            NotValidatedError: it did not pass the gate.
            CorruptPolicyError: its file, or the book, was changed.
        """
        with self._changing() as book:
            if policy_id == SHIPPED:
                for name in [features] if features else list(book.active):
                    self._let_decide(book, name, SHIPPED, "restored", reason)
                return
            entry = check_known(book, policy_id)
            if entry.state == "refused":
                raise NotValidatedError(
                    f"{policy_id} did not pass the gate: its record says why; only one that passed "
                    "can be activated"
                )
            read_content(self._folder, entry.sha256)
            self._let_decide(book, entry.features, policy_id, "restored", reason)

    def roll_back(self, features: str, *, reason: str = "asked for") -> str:
        """Put back what decided before the active policy; return its id.

        One whose file was changed is passed over; what comes with the program is always there.
        """
        with self._changing() as book:
            before = book.previous.setdefault(features, [])
            while before:
                policy_id = before.pop()
                if policy_id == SHIPPED or self._is_sound(book, policy_id):
                    break
            else:
                policy_id = SHIPPED
            self._let_decide(book, features, policy_id, "put back", reason, remember=False)
            return policy_id

    def withdraw(self, policy_id: str, features: str, *, reason: str) -> None:
        """Put back what decided before a policy that the controller has rejected.

        Nothing is changed where another has become active meanwhile.
        """
        if self.book().active_of(features) == policy_id:
            self.roll_back(features, reason=reason)

    def changed_at(self) -> tuple[int, ...]:
        """Return what differs after every change of the book; empty where there is none."""
        try:
            status = (self._folder / "registry.json").stat()
        except FileNotFoundError:
            return ()
        return status.st_ino, status.st_mtime_ns, status.st_size

    def begin(self) -> None:
        """Sign the book with today's key, and with it which policy comes along; at every start.

        Raises:
            CorruptPolicyError: the book cannot be believed, or the shipped policy was changed.
        """
        shipped_document()
        with self._changing() as book:
            known = [event.reason for event in book.history if event.what == _CAME_ALONG]
            if known[-1:] != [SHIPPED_SHA256]:
                self._tell(book, SHIPPED, PLACEMENT_VERSION, _CAME_ALONG, SHIPPED_SHA256)

    def policies(self) -> list[dict[str, Any]]:
        """Return every policy as JSON values, newest first, and what comes with the program last.

        One whose file was changed is "damaged"; `controller` says how far its update has come.
        Raises CorruptPolicyError: the book was changed.
        """
        book, desk = self.book(), self._controllers()
        rows = sorted(book.entries.values(), key=lambda entry: entry.added_at, reverse=True)
        told = [
            {
                **asdict(entry),
                "records": list(entry.records),
                "lineage": dict(entry.lineage),
                "state": entry.state if self._is_sound(book, entry.id) else "damaged",
                "created_at": entry.added_at,
                "controller": desk.told_of(entry.id),
            }
            for entry in rows
        ]
        return [*told, shipped_row(active=all(each == SHIPPED for each in book.active.values()))]

    def history(self) -> list[dict[str, Any]]:
        """Return what happened to policies here and at the controller's desk, newest first.

        Raises CorruptPolicyError: the book was changed.
        """
        sides = {"simic": self.book().history, "tamiyo": self._controllers().history}
        told = [{**asdict(each), "by": by} for by, events in sides.items() for each in events]
        return sorted(told, key=lambda event: float(event["at"]), reverse=True)

    def _controllers(self) -> DeskBook:
        """Return the controller's book; an empty one where there is none to be believed."""
        try:
            found = None if self._desk is None else read_desk(self._desk, self._signer)
        except CorruptPolicyError:
            found = None  # whoever keeps it says so
        return found or DeskBook()

    def _let_decide(
        self,
        book: Book,
        features: str,
        successor: str,
        what: str,
        reason: str,
        *,
        remember: bool = True,
    ) -> None:
        """Let `successor` decide in place of what does; `remember` for a way back to that."""
        left = book.active_of(features)
        if left == successor:
            return
        if remember:
            before = book.previous.setdefault(features, [])
            before.append(left)
            del before[:-HISTORY_KEPT]
        self._set_state(book, left, "retired")
        self._set_state(book, successor, "active")
        book.active[features] = successor
        self._tell(book, successor, features, what, reason)

    @staticmethod
    def _set_state(book: Book, policy_id: str, state: State) -> None:
        if policy_id != SHIPPED:
            book.entries[policy_id] = replace(book.entries[policy_id], state=state)

    def _is_sound(self, book: Book, policy_id: str) -> bool:
        try:
            read_content(self._folder, book.entries[policy_id].sha256)
        except CorruptPolicyError:
            return False
        return True

    def _tell(self, book: Book, policy_id: str, features: str, what: str, reason: str) -> None:
        book.history.append(Event(self._now(), policy_id, features, what, reason))
        del book.history[:-HISTORY_KEPT]

    @contextmanager
    def _changing(self) -> Iterator[Book]:
        """Hold the registry's lock; what was changed in the book is durable when it ends well."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            book = self.book()
            yield book
            write_atomically(self._folder / "registry.json", write_form(book, self._signer))


def learned_document(state_dir: Path) -> dict[str, Any]:
    """Return what `learned` decides by in a state directory: what has passed, else the shipped.

    Raises:
        CorruptPolicyError: not even the shipped one can be used.
        OSError, ValueError: the key cannot be used.
    """
    folder = registry_path(state_dir)
    if not folder.is_dir():
        return shipped_document()
    found = decider(folder, load_signer(state_dir / "leyline.key"), PLACEMENT_VERSION)
    return shipped_document() if found is None else found[1]


def shipped_row(*, active: bool) -> dict[str, Any]:
    """Return what comes with the program as a row of the list."""
    return {"id": SHIPPED, "state": "active" if active else "retired", "created_at": None}


def _form(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, allow_nan=False).encode()


def _checked_lineage(document: Mapping[str, Any]) -> dict[str, Any]:
    lineage = dict(document.get("lineage", {}))
    missing = [name for name in _LINEAGE if name not in lineage]
    if missing:
        raise LineageError(f"the policy's lineage does not have {', '.join(missing)}")
    return {name: lineage[name] for name in lineage if name != "runs"}
