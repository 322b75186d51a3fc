"""Which version of a learned policy a run begins with: what the desk lets decide now.

A run is an episode: what it begins with is written into its folder, with what it may have to go
back to, and a resumed run takes that again. `learned` and `gnn` are policies of Simic's registry,
each for its version of the features.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from esper_async.leyline.signing import Signer
from esper_async.runtime.files import write_json_atomically
from esper_async.tamiyo.desk_book import DeskBook, Version, read_desk
from esper_async.tamiyo.errors import CorruptPolicyError, PolicyFileError
from esper_async.tamiyo.feature_versions import GRAPH_VERSION, PLACEMENT_VERSION
from esper_async.tamiyo.policies import Policy
from esper_async.tamiyo.policies.from_document import policy_of
from esper_async.tamiyo.policies.graph import SHIPPED as SHIPPED_FILE
from esper_async.tamiyo.policies.graph import GraphPolicy
from esper_async.tamiyo.policies.learned import FeatureVersionError
from esper_async.tamiyo.published import SHIPPED, read_content
from esper_async.tamiyo.shipped import LEARNED, shipped_document

_LOG = structlog.get_logger(__name__)
PINNED = "policy.json"
FEATURES: Mapping[str, str] = {LEARNED: PLACEMENT_VERSION, GraphPolicy.name: GRAPH_VERSION}
"""By which features a policy decides that a run file can name, if updates reach it."""
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PolicyPlaces:
    """Where an installation keeps its learned policies, and the key that they are signed with."""

    desk: Path
    registry: Path
    signer: Signer


@dataclass(frozen=True, slots=True)
class Chosen:
    """A policy by its id, and its document; None for the graph policy that comes along."""

    id: str
    document: Document | None

    def make(self, seed: int) -> Policy:
        """Return the policy, as new.

        Raises:
            PolicyFileError, FeatureVersionError: it cannot be used.
        """
        if self.document is None:
            return GraphPolicy.load(seed, SHIPPED_FILE)
        return policy_of(self.document, seed)

    def to_json(self) -> Document:
        """Return it as JSON values."""
        return {"version": self.id, "document": self.document}

    @classmethod
    def read(cls, path: Path) -> "Chosen":
        """Read back what `to_json` gave. Raises CorruptPolicyError: it is not there, or changed."""
        try:
            told = json.loads(path.read_bytes())
            return cls(told["version"], told["document"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptPolicyError(f"{path}: it holds no policy of this run: {error}") from error


@dataclass(frozen=True, slots=True)
class Start:
    """What a run begins with.

    `former` is what it goes back to if the policy does worse than that; None where the policy has
    nothing to prove.
    """

    chosen: Chosen
    former: Chosen | None = None


def begin(name: str, places: PolicyPlaces, *, run_dir: Path) -> Start:
    """Return what decides in a run of a policy that `FEATURES` knows.

    A version that cannot be used gives way to the one before it; the program's own is the last.

    Raises:
        PolicyFileError, FeatureVersionError: that of a run that is resumed, or the program's own,
            cannot be used.
    """
    pinned = _pinned(run_dir)
    if pinned is not None:
        return _start(pinned)
    features = FEATURES[name]
    book = desk_of(places)
    usable = _usable(features, book, places)
    chosen = next(usable)
    start = Start(chosen)
    if book.watched(chosen.id) is not None:
        with suppress(PolicyFileError):  # without the program's own there may be no way back
            start = Start(chosen, next(usable))
    write_json_atomically(
        run_dir / PINNED,
        {
            **chosen.to_json(),
            "former": None if start.former is None else start.former.to_json(),
        },
    )
    return start


def desk_of(places: PolicyPlaces) -> DeskBook:
    """Return what the desk says; an empty book where there is none that can be believed."""
    try:
        return read_desk(places.desk, places.signer) or DeskBook()
    except CorruptPolicyError as error:
        _LOG.error("policy_desk_refused", reason=str(error))
        return DeskBook()


def shipped(features: str) -> Chosen:
    """Return what comes with the program. Raises CorruptPolicyError: its file was changed."""
    return Chosen(SHIPPED, shipped_document() if features == PLACEMENT_VERSION else None)


def published(version: Version, places: PolicyPlaces) -> Chosen:
    """Return a version as it was published. Raises CorruptPolicyError: its file was changed."""
    return Chosen(version.id, read_content(places.registry, version.sha256))


def _usable(features: str, book: DeskBook, places: PolicyPlaces) -> Iterator[Chosen]:
    """Yield what may decide and can, the best first; raises if the program's own cannot."""
    for policy_id in book.order(features):
        if policy_id == SHIPPED:
            break
        try:
            chosen = published(book.versions[policy_id], places)
            chosen.make(0)
        except (PolicyFileError, FeatureVersionError) as error:
            _LOG.error("policy_passed_over", version=policy_id, reason=str(error))
            continue
        yield chosen
    chosen = shipped(features)
    chosen.make(0)
    yield chosen


def _start(pinned: Document) -> Start:
    former = pinned.get("former")
    return Start(
        Chosen(pinned["version"], pinned.get("document")),
        None if former is None else Chosen(former["version"], former["document"]),
    )


def _pinned(run_dir: Path) -> Document | None:
    try:
        told: Document = json.loads((run_dir / PINNED).read_text())
    except FileNotFoundError:
        return None
    return told
