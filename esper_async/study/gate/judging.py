"""The gate from end to end: is what was learned sound, likely no worse, and no worse in fresh runs?

Three questions, the cheap ones first, and a record of the answers, pass or fail. What passes is
published; what does not is kept with its record, and the active policy stays.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from esper_async.simic.doubly_robust import Difference
from esper_async.simic.registry import PolicyRegistry
from esper_async.simic.soundness import faults_of
from esper_async.simic.validate import compare
from esper_async.study.gate.plan import GatePlan
from esper_async.study.gate.replay import Replay, run_replay
from esper_async.study.ledger import code_fingerprint
from esper_async.tamiyo.errors import PolicyFileError
from esper_async.tamiyo.feature_versions import PLACEMENT_VERSION
from esper_async.tamiyo.policies.from_document import learned_of
from esper_async.tamiyo.policies.learned import digest_of
from esper_async.tamiyo.published import SHIPPED, Entry
from esper_async.tamiyo.shipped import shipped_document

RECORD_VERSION = 1


class ActivePolicyError(RuntimeError):
    """There is no active policy to compare with; the message says what to do."""


class NothingNewError(RuntimeError):
    """What was learned decides as the active policy does; the message names that."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate said of a policy: its entry in the registry, and the whole record."""

    entry: Entry
    record: Mapping[str, Any]

    @property
    def published(self) -> bool:
        """Whether it decides from now on."""
        return self.record["passes"] is True


def active_policy(registry: PolicyRegistry) -> tuple[str, dict[str, Any]]:
    """Return the id and the document of the active policy.

    Raises:
        ActivePolicyError: it, or the whole registry, was changed since it was published.
    """
    try:
        active = registry.book().active_of(PLACEMENT_VERSION)
        return active, shipped_document() if active == SHIPPED else registry.document(active)
    except PolicyFileError as error:
        raise ActivePolicyError(
            f"nothing can be compared with the active policy: {error}; `policies rollback` puts "
            "back the one before it"
        ) from error


def judge(
    state_dir: Path,
    new: Mapping[str, Any],
    plan: GatePlan,
    *,
    workers: int | None = None,
    nice: int = 10,
    tell: Callable[[str], None],
) -> Verdict:
    """Ask whether a policy may decide, and put it into the registry with the answer.

    On the main thread. What was interrupted goes on from there, when the same is asked again.

    Args:
        state_dir: whose experience, registry and runs of replays are used.
        new: the document of a learner.
        plan: of the replay.
        workers: runs at a time; default: one a core.
        nice: the priority of the workers.
        tell: is given a line after each run.

    Raises:
        ActivePolicyError: the active policy cannot be used.
        NothingNewError: it is the active one.
        CorruptPolicyError, FeatureVersionError: the new one cannot.
        NotValidatedError: another policy has become active meanwhile.
        FileNotFoundError: there is no experience.
    """
    registry = PolicyRegistry.of(state_dir)
    active, document = active_policy(registry)
    learned, decides = learned_of(new), learned_of(document)
    if digest_of(learned) == digest_of(decides):
        raise NothingNewError(f"nothing new was learned: it decides as {active}, which is active")
    estimate, told = compare(state_dir, new, document)
    faults = faults_of(learned.probabilities)
    replayed = partial(
        run_replay, plan, new, document, state_dir / "replays",
        workers=workers, nice=nice, tell=tell,
    )  # fmt: skip
    reasons, replay = decided(faults, estimate, replayed)
    record = {
        "version": RECORD_VERSION,
        "passes": not reasons,
        "reasons": reasons,
        "active": active,
        "active_digest": digest_of(decides),
        "code": code_fingerprint(),
        "faults": faults,
        "estimate": told,
        "plan": {"hash": plan.hash, **plan.model_dump(mode="json")},
        "replay": None if replay is None else replay.to_json(),
        "calibration": None if replay is None else _calibration(estimate, replay),
    }
    return Verdict(registry.submit(new, record), record)


def decided(
    faults: Sequence[str], estimate: Difference, replayed: Callable[[], Replay]
) -> tuple[list[str], Replay | None]:
    """Return why a policy is not published, nothing where it is; and the replay if there was one.

    Fresh runs are asked last, and only of what is sound and not surely worse.
    """
    reasons = [*faults, *_surely_worse(estimate)]
    if reasons:
        return reasons, None
    replay = replayed()
    return replay_reasons(replay), replay


def _surely_worse(estimate: Difference) -> list[str]:
    """Return why no run need be made; where little can be said of a policy, runs must tell."""
    if estimate.refusals or estimate.high >= 0.0:
        return []
    return [
        f"by runs that were kept back a decision earns {estimate.value:+.3f} of reward beside the "
        f"active policy [{estimate.low:+.3f}, {estimate.high:+.3f}]: no run was made"
    ]


def replay_reasons(replay: Replay) -> list[str]:
    """Return why fresh runs let no policy out; empty if they do."""
    if replay.difference is None:
        missing = sum(pair.new is None or pair.active is None for pair in replay.pairs)
        return [
            f"{missing} of {len(replay.pairs)} pairs of runs have no result",
            *(f"{what}: {why}" for what, why in replay.failures.items()),
        ]
    found = replay.difference
    if replay.no_worse:
        return []
    return [
        f"fresh runs differ by {found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}] from those "
        f"under the active policy ({len(replay.pairs)} pairs): the lower end is below 0"
    ]


def _calibration(estimate: Difference, replay: Replay) -> dict[str, Any]:
    """Hold what was estimated of a decision's reward against what fresh runs were paid."""
    refused = bool(estimate.refusals)
    measured = replay.reward
    within = None
    if not refused and measured is not None:
        within = estimate.low <= measured <= estimate.high
    return {
        "estimated": None if refused else estimate.value,
        "low": None if refused else estimate.low,
        "high": None if refused else estimate.high,
        "measured": measured,
        "within": within,
    }
