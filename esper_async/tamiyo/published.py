"""What a registry of learned policies has on disk, and which of them decides. Torch-free.

Simic writes it, runs read it. `registry.json` says which policies there are, what each came from,
which is active for which features, and what happened; it is signed with the installation's key. The
policies and their validation records lie beside it, named by their SHA-256, which the book has: a
file that was changed, or a book that another key signed, is refused before anything is loaded.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import structlog

from esper_async.leyline.signing import Signer
from esper_async.tamiyo.errors import CorruptPolicyError

_LOG = structlog.get_logger(__name__)
FORMAT = "esper-policy-registry-1"
SHIPPED = "shipped"
"""The name of the policy that comes with the program: what is active where nothing else is."""
KINDS = ("awr", "bandit", "gnn")
"""Of policies that this program can make."""
State = Literal["active", "retired", "refused"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A policy that went through the gate, whichever way it came out.

    Attributes:
        id: its kind and the beginning of its checksum.
        features: the version of the features that it decides by.
        sha256: of its file; `records` are those of its validation records, oldest first.
        parent: what was active when it was judged.
        lineage: data digest, version of the reward formula, code, command, and more.
        added_at: Unix time, seconds.
    """

    id: str
    kind: str
    features: str
    sha256: str
    state: State
    parent: str
    records: tuple[str, ...]
    lineage: Mapping[str, Any]
    added_at: float


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a policy, at a Unix time in seconds."""

    at: float
    id: str
    features: str
    what: str
    reason: str


@dataclass(slots=True)
class Book:
    """All that a registry says: what is active by features, and what was before, oldest first."""

    entries: dict[str, Entry] = field(default_factory=dict)
    active: dict[str, str] = field(default_factory=dict)
    previous: dict[str, list[str]] = field(default_factory=dict)
    history: list[Event] = field(default_factory=list)

    def active_of(self, features: str) -> str:
        """Return the id that decides for these features, `SHIPPED` where none was published."""
        return self.active.get(features, SHIPPED)

    def order(self, features: str) -> list[str]:
        """Return what may decide: the active, else what was so before it, the newest first."""
        before = self.previous.get(features, [])
        return list(dict.fromkeys([self.active_of(features), *reversed(before)]))


def registry_path(state_dir: Path) -> Path:
    """Return where a state directory keeps its registry."""
    return state_dir / "simic" / "registry"


def sha256_of(content: bytes) -> str:
    """Return the name of content."""
    return hashlib.sha256(content).hexdigest()


def content_path(folder: Path, sha256: str) -> Path:
    """Return where a registry keeps a policy or a record."""
    return folder / "content" / f"{sha256}.json"


def read_book(folder: Path, signer: Signer) -> Book:
    """Return what a registry says; an empty book where there is no registry.

    Raises:
        CorruptPolicyError: it is no book, or was not signed with this installation's key.
    """
    path = folder / "registry.json"
    try:
        told = json.loads(path.read_bytes())
        signature, book = bytes.fromhex(told["signature"]), told["book"]
        if told["format"] != FORMAT:
            raise ValueError(f"format {told['format']!r}, expected {FORMAT!r}")
    except FileNotFoundError:
        return Book()
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptPolicyError(f"{path}: it is no registry of policies: {error}") from error
    if not signer.verify(_signed(book), signature):
        raise CorruptPolicyError(
            f"{path}: its signature is not of this installation's key: it was changed, or belongs "
            "to another state directory. Restore it from a backup, or remove it: the shipped "
            "policy decides then, and `learn` publishes anew"
        )
    return Book(
        {name: _entry(entry) for name, entry in book["entries"].items()},
        dict(book["active"]),
        {features: list(ids) for features, ids in book["previous"].items()},
        [Event(**event) for event in book["history"]],
    )


def write_form(book: Book, signer: Signer) -> bytes:
    """Return a book as `read_book` takes it."""
    told = json.loads(json.dumps(asdict(book), default=dict))
    signature = signer.sign(_signed(told)).hex()
    return json.dumps({"format": FORMAT, "signature": signature, "book": told}, indent=1).encode()


def read_content(folder: Path, sha256: str) -> dict[str, Any]:
    """Return a policy or a record of a registry, once its checksum is verified.

    Raises:
        CorruptPolicyError: it is not there, or not what was published.
    """
    return read_pinned(content_path(folder, sha256), sha256)


def read_pinned(path: Path, sha256: str) -> dict[str, Any]:
    """Return the document in a file whose SHA-256 is known.

    Raises:
        CorruptPolicyError: it is not there, or has another checksum.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptPolicyError(f"{path}: it cannot be read: {error}") from error
    found = sha256_of(content)
    if found != sha256:
        raise CorruptPolicyError(
            f"{path}: its checksum is {found[:12]}, not {sha256[:12]}: it was cut short or "
            "changed; put back a copy from a backup, or activate another policy"
        )
    document: dict[str, Any] = json.loads(content)
    return document


def decider(folder: Path, signer: Signer, features: str) -> tuple[str, dict[str, Any]] | None:
    """Return the id and the document of what decides for these features; None: what is shipped.

    What cannot be used gives way to the one before it. The registry stays as it is: what was
    refused is logged here, and listed there as damaged.
    """
    try:
        book = read_book(folder, signer)
    except CorruptPolicyError as error:
        _LOG.error("policy_registry_refused", reason=str(error))
        return None
    for policy_id in book.order(features):
        if policy_id == SHIPPED:
            return None
        entry = book.entries[policy_id]
        try:
            if entry.kind not in KINDS:
                raise CorruptPolicyError(f"{policy_id} is of the kind {entry.kind!r}, not {KINDS}")
            return policy_id, read_content(folder, entry.sha256)
        except CorruptPolicyError as error:
            _LOG.error("policy_passed_over", version=policy_id, reason=str(error))
    return None


def check_known(book: Book, policy_id: str) -> Entry:
    """Return an entry. Raises LookupError naming those there are."""
    if policy_id not in book.entries:
        known = ", ".join(book.entries) or "none"
        raise LookupError(
            f"there is no policy {policy_id!r} beside the shipped one; known: {known}"
        )
    return book.entries[policy_id]


def _entry(told: Mapping[str, Any]) -> Entry:
    return Entry(**{**told, "records": tuple(told["records"])})


def _signed(book: Mapping[str, Any]) -> bytes:
    text = json.dumps(book, sort_keys=True, separators=(",", ":"))
    return b"esper.policy-registry.v1\n" + text.encode()
