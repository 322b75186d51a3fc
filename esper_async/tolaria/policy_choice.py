"""Which version of a learned policy decides in a run: the active one, kept to the end.

A run is an episode: what it begins with is written into its folder, and a resumed run takes that
again, whatever was activated since. `gnn` has its versions on Tamiyo's shelf; `learned` is what
Simic's registry has published, and the whole of it is kept with the run.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from esper_async.leyline.signing import Signer
from esper_async.runtime.files import write_json_atomically
from esper_async.tamiyo.errors import PolicyFileError
from esper_async.tamiyo.placement_version import PLACEMENT_VERSION
from esper_async.tamiyo.policies import Policy
from esper_async.tamiyo.policies.from_document import policy_of
from esper_async.tamiyo.policies.graph import SHIPPED, GraphPolicy
from esper_async.tamiyo.policy_shelf import (
    SHIPPED_VERSION,
    PolicyShelf,
    PolicyUpdateRefusedError,
)
from esper_async.tamiyo.published import SHIPPED as SHIPPED_ID
from esper_async.tamiyo.published import decider
from esper_async.tamiyo.shipped import LEARNED, shipped_document

_LOG = structlog.get_logger(__name__)
PINNED = "policy.json"


@dataclass(frozen=True, slots=True)
class PolicyPlaces:
    """Where an installation keeps its learned policies, and the key that they are signed with."""

    shelf_dir: Path
    registry_dir: Path
    signer: Signer


def choose_policy(name: str, seed: int, places: PolicyPlaces, *, run_dir: Path) -> Policy | None:
    """Return the learned policy of a run; None for a run of another policy.

    A version that cannot be used gives way to the one before it; the program's own is the last.

    Raises:
        PolicyFileError, FeatureVersionError: that of a run that is resumed, or the program's own,
            cannot be used.
    """
    if name == LEARNED:
        return _learned(seed, places, run_dir)
    return _graph(seed, places, run_dir) if name == GraphPolicy.name else None


def _graph(seed: int, places: PolicyPlaces, run_dir: Path) -> GraphPolicy:
    shelf = PolicyShelf(places.shelf_dir)
    pinned = _pinned(run_dir)
    if pinned is not None:
        return _load(shelf, str(pinned["version"]), seed)
    version = shelf.active
    while True:
        try:
            policy = _load(shelf, version, seed)
        except (PolicyFileError, PolicyUpdateRefusedError) as error:
            if version == SHIPPED_VERSION:
                raise
            _LOG.error("policy_rolled_back", version=version, reason=str(error))
            version = shelf.roll_back(str(error))
            continue
        write_json_atomically(run_dir / PINNED, {"version": version})
        return policy


def _learned(seed: int, places: PolicyPlaces, run_dir: Path) -> Policy:
    pinned = _pinned(run_dir)
    if pinned is not None:
        return policy_of(pinned["document"], seed)
    found = decider(places.registry_dir, places.signer, PLACEMENT_VERSION)
    version, document = found or (SHIPPED_ID, shipped_document())
    policy = policy_of(document, seed)
    write_json_atomically(run_dir / PINNED, {"version": version, "document": document})
    return policy


def _load(shelf: PolicyShelf, version: str, seed: int) -> GraphPolicy:
    return GraphPolicy.load(seed, shelf.path(version) or SHIPPED)


def _pinned(run_dir: Path) -> dict[str, Any] | None:
    try:
        told: dict[str, Any] = json.loads((run_dir / PINNED).read_text())
    except FileNotFoundError:
        return None
    return told
