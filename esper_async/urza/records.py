"""What the catalogue says about an asset, and how a record proves that it is intact.

A record is canonical JSON; its SHA-256 stands beside it in the catalogue row and in the sidecar,
so that a flipped bit in either is noticed on reading.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from esper_async.urza.errors import DamagedRecordError


class Lifecycle(StrEnum):
    """Where an asset stands between being made and being withdrawn."""

    DRAFT = "draft"
    VALIDATED = "validated"
    ACTIVE = "active"
    DEPRECATED = "deprecated"
    QUARANTINED = "quarantined"


SERVED = frozenset({Lifecycle.VALIDATED, Lifecycle.ACTIVE})
"""The states in which an asset is offered for new use."""

NEXT: Mapping[Lifecycle, frozenset[Lifecycle]] = {
    Lifecycle.DRAFT: frozenset({Lifecycle.VALIDATED, Lifecycle.DEPRECATED, Lifecycle.QUARANTINED}),
    Lifecycle.VALIDATED: frozenset({Lifecycle.ACTIVE, Lifecycle.DEPRECATED, Lifecycle.QUARANTINED}),
    Lifecycle.ACTIVE: frozenset({Lifecycle.DEPRECATED, Lifecycle.QUARANTINED}),
    Lifecycle.DEPRECATED: frozenset({Lifecycle.ACTIVE, Lifecycle.QUARANTINED}),
    Lifecycle.QUARANTINED: frozenset(),
}
"""Legal lifecycle steps. A quarantined version never comes back: a new version is made."""


PARAMETERS, FORWARD_FLOPS, FORWARD_MS = "parameter_count", "forward_flops", "forward_ms"
"""The names in `performance` that budgets are held against."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One immutable version of something the library keeps.

    `blob` is the SHA-256 of the content; `parents` are the ids of the assets it was made from,
    `holders` those who still refer to it (a run, a record), `performance` what was measured of it.
    `tier`, `stage` and `risk` (0 to 1) are its blueprint's. `seal` is the HMAC of what this
    installation made and alone may open. `revision` counts what has been said of the version: of
    two intact records the higher one holds.
    """

    key: str
    version: int
    kind: str
    blob: str
    size_bytes: int
    created_at: float
    blueprint: str = ""
    interface: str = ""
    lifecycle: Lifecycle = Lifecycle.ACTIVE
    tags: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    performance: Mapping[str, float] = field(default_factory=dict)
    tier: str = ""
    stage: int | None = None
    risk: float | None = None
    seal: str = ""
    revision: int = 1

    @property
    def id(self) -> str:
        """Key and version in one text: what others refer to."""
        return f"{self.key}@{self.version}"

    @property
    def parameters(self) -> float | None:
        """How many trainable values it has; None: not measured."""
        return self.performance.get(PARAMETERS)

    @property
    def flops(self) -> float | None:
        """Operations of one sample's forward pass; None: not measured."""
        return self.performance.get(FORWARD_FLOPS)

    @property
    def latency_ms(self) -> float | None:
        """Milliseconds of a forward pass, as measured; None: not measured."""
        return self.performance.get(FORWARD_MS)

    def to_json(self) -> str:
        """The canonical text from which the digest is taken."""
        return canonical({name: getattr(self, name) for name in _FIELDS})

    @classmethod
    def from_json(cls, text: str) -> "Asset":
        """Read a canonical text back. Raises DamagedRecordError when it is not one."""
        try:
            said: dict[str, Any] = json.loads(text)
            for name in ("tags", "parents", "holders"):
                said[name] = tuple(said[name])
            said["lifecycle"] = Lifecycle(said["lifecycle"])
            return cls(**said)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DamagedRecordError(f"not an asset record: {error}") from error

    def check_types(self) -> None:
        """Raise TypeError when a field is not what it should be: for a record that is not ours."""
        texts = (self.key, self.kind, self.blob, self.blueprint, self.interface, self.tier)
        if not all(isinstance(text, str) for text in (*texts, self.seal, *self.tags)):
            raise TypeError("a text is missing")
        numbers = (self.version, self.size_bytes, self.revision)
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise TypeError("version, size and revision are whole numbers")
        figures = (self.created_at, *self.performance.values())
        optional = (each for each in (self.stage, self.risk) if each is not None)
        if not all(type(figure) in (int, float) for figure in (*figures, *optional)):
            raise TypeError("a figure is not a number")


_FIELDS = tuple(each.name for each in fields(Asset))


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces. Raises ValueError on NaN or infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def checked(text: object, digest: object) -> Asset:
    """The asset of a record whose digest matches. Raises DamagedRecordError otherwise."""
    if not isinstance(text, str) or not isinstance(digest, str) or digest_of(text) != digest:
        raise DamagedRecordError("the record does not match its digest")
    return Asset.from_json(text)
