"""Which version of the graph policy decides in a run: the shelf's active one, kept to the end.

A run is an episode: the version that it begins with is written into its folder, and a resumed run
takes that one again, whatever was activated since.
"""

import json
from pathlib import Path

import structlog

from esper_async.runtime.files import write_json_atomically
from esper_async.tamiyo.errors import PolicyFileError
from esper_async.tamiyo.policies.graph import SHIPPED, GraphPolicy
from esper_async.tamiyo.policy_shelf import (
    SHIPPED_VERSION,
    PolicyShelf,
    PolicyUpdateRefusedError,
)

_LOG = structlog.get_logger(__name__)
PINNED = "policy.json"


def choose_policy(name: str, seed: int, *, shelf_dir: Path, run_dir: Path) -> GraphPolicy | None:
    """Return the graph policy of a run; None for a run of another policy.

    A version whose file cannot be used is rolled back, and the one before it decides; the program's
    own is the last.

    Raises:
        PolicyFileError: that of a run that is resumed, or the program's own, cannot be used.
    """
    if name != GraphPolicy.name:
        return None
    shelf = PolicyShelf(shelf_dir)
    pinned = _pinned(run_dir)
    if pinned is not None:
        return _load(shelf, pinned, seed)
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


def _load(shelf: PolicyShelf, version: str, seed: int) -> GraphPolicy:
    return GraphPolicy.load(seed, shelf.path(version) or SHIPPED)


def _pinned(run_dir: Path) -> str | None:
    try:
        return str(json.loads((run_dir / PINNED).read_text())["version"])
    except FileNotFoundError:
        return None
