"""What is known of policy updates, as it lies on disk: signed, whole, readable by any process.

The supervisor's `PolicyDesk` writes it; training processes read it when they start and, where it
has changed, at their boundaries. Torch-free.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from esper_async.leyline.signing import Signer
from esper_async.tamiyo.errors import CorruptPolicyError
from esper_async.tamiyo.published import SHIPPED, Event

FORMAT = "esper-policy-desk-1"
Stage = Literal["staged", "active", "retired", "rejected"]
Activation = Literal["episode", "boundary"]


@dataclass(frozen=True, slots=True)
class Rules:
    """How a policy takes over.

    Args:
        activation: "episode" lets it decide in runs that begin afterwards; "boundary" in those
            under way, too, from their next boundary.
        shadow_states: live states on which it is asked beside the active policy before that.
        watch_boundaries: boundaries for which it is watched afterwards, in the first run to pass so
            many.
    """

    activation: Activation = "episode"
    shadow_states: int = 20
    watch_boundaries: int = 10


@dataclass(frozen=True, slots=True)
class Version:
    """A policy that an update was about.

    Attributes:
        id: in Simic's registry, where `sha256` names its file.
        features: the version of the features that it decides by.
        update: the id of the update that it was staged by last.
        since: Unix time in seconds at which it entered its stage.
        shadow: what it did beside the active one, as `ShadowTally.to_json` tells it.
        settled: whether it has been watched for long enough since it took over.
        withdrawn: whether the registry knows that it was rejected.
    """

    id: str
    features: str
    sha256: str
    update: str
    stage: Stage
    since: float
    shadow: Mapping[str, Any] | None = None
    reason: str = ""
    settled: bool = False
    withdrawn: bool = False


@dataclass(slots=True)
class DeskBook:
    """All that a desk says: by features what decides, what did before, and what is staged.

    Attributes:
        heard: ids of the newest updates, oldest first, whatever became of them.
        folded: by run, the number of the newest record that was taken in.
        trouble: by features, what was rejected since an update last took over.
        history: what happened, oldest first.
    """

    rules: Rules = field(default_factory=Rules)
    active: dict[str, str] = field(default_factory=dict)
    previous: dict[str, list[str]] = field(default_factory=dict)
    staged: dict[str, str] = field(default_factory=dict)
    versions: dict[str, Version] = field(default_factory=dict)
    heard: list[str] = field(default_factory=list)
    folded: dict[str, int] = field(default_factory=dict)
    trouble: dict[str, Event] = field(default_factory=dict)
    history: list[Event] = field(default_factory=list)

    def active_of(self, features: str) -> str:
        """Return the id of what decides in runs that begin now."""
        return self.active.get(features, SHIPPED)

    def order(self, features: str) -> list[str]:
        """Return what may decide: the active, else what was so before it, the newest first."""
        before = self.previous.get(features, [])
        return list(dict.fromkeys([self.active_of(features), *reversed(before), SHIPPED]))

    def staged_of(self, features: str) -> Version | None:
        """Return what is to be asked beside the active policy."""
        policy_id = self.staged.get(features)
        return None if policy_id is None else self.versions[policy_id]

    def told_of(self, policy_id: str) -> dict[str, Any] | None:
        """Return how far the update of a policy has come, as JSON values; None without one."""
        version = self.versions.get(policy_id)
        if version is None:
            return None
        asked = 0 if version.shadow is None else version.shadow["new"]["decisions"]
        return {
            "stage": version.stage,
            "since": version.since,
            "states": asked,
            "states_wanted": self.rules.shadow_states,
            "watched": self.watched(policy_id) is not None,
            "reason": version.reason,
        }

    def watched(self, policy_id: str) -> Version | None:
        """Return an active policy that has not been watched for long enough."""
        version = self.versions.get(policy_id)
        if version is None or version.stage != "active" or version.settled:
            return None
        return None if version.shadow is None else version

    def move(self, policy_id: str, stage: Stage, at: float, **changes: Any) -> None:
        """Let a version enter a stage; what comes with the program is in none."""
        if policy_id != SHIPPED:
            known = self.versions[policy_id]
            self.versions[policy_id] = replace(known, stage=stage, since=at, **changes)


def desk_path(state_dir: Path) -> Path:
    """Return where a state directory keeps its desk."""
    return state_dir / "tamiyo" / "policies.json"


def read_desk(path: Path, signer: Signer) -> DeskBook | None:
    """Return what a desk says; None where there is none.

    Raises:
        CorruptPolicyError: it is no desk, or was not signed with this installation's key.
    """
    try:
        told = json.loads(path.read_bytes())
        signature, book = bytes.fromhex(told["signature"]), told["desk"]
        if told["format"] != FORMAT:
            raise ValueError(f"format {told['format']!r}, expected {FORMAT!r}")
        if not signer.verify(_signed(book), signature):
            raise ValueError("its signature is not of this installation's key")
        return _book(book)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptPolicyError(
            f"{path}: it cannot be believed: {error}. Remove it: the shipped policy decides until "
            "what the registry has published was asked beside it again"
        ) from error


def desk_form(book: DeskBook, signer: Signer) -> bytes:
    """Return a book as `read_desk` takes it."""
    told = json.loads(json.dumps(asdict(book), default=dict))
    signature = signer.sign(_signed(told)).hex()
    return json.dumps({"format": FORMAT, "signature": signature, "desk": told}).encode()


def _book(told: Mapping[str, Any]) -> DeskBook:
    return DeskBook(
        Rules(**told["rules"]),
        dict(told["active"]),
        {features: list(ids) for features, ids in told["previous"].items()},
        dict(told["staged"]),
        {name: Version(**version) for name, version in told["versions"].items()},
        list(told["heard"]),
        {run: int(seq) for run, seq in told["folded"].items()},
        {features: Event(**event) for features, event in told["trouble"].items()},
        [Event(**event) for event in told["history"]],
    )


def _signed(book: Mapping[str, Any]) -> bytes:
    text = json.dumps(book, sort_keys=True, separators=(",", ":"))
    return b"esper.policy-desk.v1\n" + text.encode()
