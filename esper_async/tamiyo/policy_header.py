"""What a policy's file says of itself, and whether it may be believed. Torch-free.

The first line is JSON: version, the features it was trained for, the checksum of the weights that
follow, and how it came to be. Nothing is loaded from a file whose checksum differs.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esper_async.tamiyo.errors import CorruptPolicyError, GraphMismatchError
from esper_async.tamiyo.graph.features import FEATURES_VERSION, schema_digest

FORMAT = "esper-policy-1"
_MOST_HEADER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class PolicyHeader:
    """What a policy's file says of itself.

    `schema` is the digest of the features, `form` the size of the network; `lineage` says how it
    came to be.
    """

    version: str
    features: str
    schema: str
    form: Mapping[str, Any]
    checksum: str
    lineage: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> bytes:
        """Return the header as the first line of a file."""
        told = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({"format": FORMAT, **told}, sort_keys=True, default=dict).encode() + b"\n"


def checksum_of(payload: bytes) -> str:
    """Return the checksum of a file's weights."""
    return hashlib.sha256(payload).hexdigest()


def read_header(path: Path) -> PolicyHeader:
    """Return what a policy's file says of itself, without looking at its weights.

    Raises:
        CorruptPolicyError: it is no policy's file.
        FileNotFoundError: there is none.
    """
    with path.open("rb") as file:
        return _parsed(str(path), file.readline(_MOST_HEADER_BYTES))


def read_verified(path: Path) -> tuple[PolicyHeader, bytes]:
    """Return the header and the weights of a file that may be loaded.

    Raises:
        CorruptPolicyError: it is no policy's file, or was changed since it was written.
        GraphMismatchError: it was trained for other features.
        FileNotFoundError: there is none.
    """
    return verify_content(path.read_bytes(), str(path))


def verify_content(content: bytes, name: str) -> tuple[PolicyHeader, bytes]:
    """Return the header and the weights in what a policy's file holds; `name` is for messages.

    Raises:
        CorruptPolicyError, GraphMismatchError: as `read_verified`.
    """
    line, _, payload = content.partition(b"\n")
    header = _parsed(name, line)
    found = checksum_of(payload)
    if found != header.checksum:
        raise CorruptPolicyError(
            f"{name}: its weights have the checksum {found[:12]}, the file says "
            f"{header.checksum[:12]}: it was cut short or changed; take another copy"
        )
    if header.schema != schema_digest():
        raise GraphMismatchError(
            f"{name}: {header.version} was trained for the features {header.features} "
            f"({header.schema[:12]}), this program's graphs have {FEATURES_VERSION} "
            f"({schema_digest()[:12]}): train it again, or use the program it was made with"
        )
    return header, payload


def _parsed(name: str, line: bytes) -> PolicyHeader:
    try:
        told = json.loads(line)
        if told["format"] != FORMAT:
            raise CorruptPolicyError(f"{name}: format {told['format']!r}, expected {FORMAT!r}")
        return PolicyHeader(
            version=str(told["version"]),
            features=str(told["features"]),
            schema=str(told["schema"]),
            form=dict(told["form"]),
            checksum=str(told["checksum"]),
            lineage=dict(told["lineage"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, CorruptPolicyError):
            raise
        raise CorruptPolicyError(f"{name}: it is no policy's file: {error!r}") from error
