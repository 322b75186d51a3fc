"""What policies share that decide by something learned: its name, its file, what it is about."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from esper_async.runtime.files import write_json_atomically
from esper_async.tamiyo.feature_versions import PLACEMENT_VERSION


class FeatureVersionError(ValueError):
    """Something was learned from, or is about, features of another version."""


class AsJson(Protocol):
    """What can be written down as JSON values."""

    @property
    def kind(self) -> str:
        """The name of the policy that decides by it."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return all of it, with the version of the features it is about."""
        ...


def digest_of(learned: AsJson) -> str:
    """Return eight hexadecimal digits that name what was learned."""
    text = json.dumps(learned.to_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def document_of(learned: AsJson, *, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Return it and what it was learned from, as JSON values."""
    return {"kind": learned.kind, **learned.to_json(), "lineage": dict(lineage)}


def save_learned(learned: AsJson, path: Path, *, lineage: Mapping[str, Any]) -> None:
    """Write its document, as JSON. Raises OSError."""
    write_json_atomically(path, document_of(learned, lineage=lineage))


def check_features(version: str) -> None:
    """Raise FeatureVersionError for features of another version than the one in use."""
    if version != PLACEMENT_VERSION:
        raise FeatureVersionError(
            f"these are features {version!r}, and {PLACEMENT_VERSION!r} are in use: learn anew "
            "from runs of this version"
        )


def check_same_policy(decided_by: str, at_hand: str) -> None:
    """Raise ValueError where a run that is resumed was decided by another version of a policy."""
    if decided_by != at_hand:
        raise ValueError(
            f"the run was decided by {decided_by}, and {at_hand} is at hand: a resumed run keeps "
            "its policy; put that one back, or begin a new run"
        )
