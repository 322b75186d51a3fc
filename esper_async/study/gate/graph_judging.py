"""The gate for graph policies: is what was taught sound, and no worse in fresh runs?

As for what `learn` learns, but that no estimate from runs that were made comes first: a graph
policy's choices depend on all that it sees, and not on features of placements alone.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from esper_async.simic.graph_soundness import graph_faults
from esper_async.simic.registry import PolicyRegistry
from esper_async.study.gate.judging import (
    RECORD_VERSION,
    ActivePolicyError,
    NothingNewError,
    Verdict,
    replay_reasons,
)
from esper_async.study.gate.plan import GatePlan
from esper_async.study.gate.replay import run_replay
from esper_async.study.ledger import code_fingerprint
from esper_async.tamiyo.errors import PolicyFileError
from esper_async.tamiyo.feature_versions import GRAPH_VERSION
from esper_async.tamiyo.policies.graph import SHIPPED as SHIPPED_FILE
from esper_async.tamiyo.policies.graph import GraphPolicy, graph_document
from esper_async.tamiyo.published import SHIPPED


def judge_graph(
    state_dir: Path,
    file: Path,
    plan: GatePlan,
    *,
    command: str,
    workers: int | None = None,
    nice: int = 10,
    tell: Callable[[str], None],
) -> Verdict:
    """Ask whether a graph policy may decide, and put it into the registry with the answer.

    On the main thread. What was interrupted goes on from there, when the same is asked again.

    Args:
        state_dir: whose registry and runs of replays are used.
        file: of the policy, as `simic.teach` writes it.
        plan: of the replay.
        command: that was typed, for the lineage.
        workers: runs at a time; default: one a core.
        nice: the priority of the workers.
        tell: is given a line after each run.

    Raises:
        FileNotFoundError: there is no such file.
        PolicyFileError: it holds no policy of this program.
        ActivePolicyError: the active policy cannot be used.
        NothingNewError: it is the active one.
        NotValidatedError: another policy has become active meanwhile.
    """
    registry = PolicyRegistry.of(state_dir)
    active, document = _active(registry)
    new = graph_document(file, lineage={})
    if new["file"] == document["file"]:
        raise NothingNewError(f"{file} decides as {active}, which is active")
    told = json.dumps(new["lineage"], sort_keys=True).encode()
    new["lineage"] = {
        "reward_version": None,
        **new["lineage"],
        "data": hashlib.sha256(told).hexdigest(),
        "code": code_fingerprint(),
        "command": command,
    }
    faults = graph_faults(GraphPolicy.unpack(0, new))
    replay = None
    if not faults:
        replay = run_replay(
            plan, new, document, state_dir / "replays", workers=workers, nice=nice, tell=tell
        )
    reasons = [*faults, *([] if replay is None else replay_reasons(replay))]
    record = {
        "version": RECORD_VERSION,
        "passes": not reasons,
        "reasons": reasons,
        "active": active,
        "code": code_fingerprint(),
        "faults": faults,
        "estimate": None,
        "plan": {"hash": plan.hash, **plan.model_dump(mode="json")},
        "replay": None if replay is None else replay.to_json(),
        "calibration": None,
    }
    return Verdict(registry.submit(new, record), record)


def _active(registry: PolicyRegistry) -> tuple[str, dict[str, Any]]:
    try:
        active = registry.book().active_of(GRAPH_VERSION)
        if active == SHIPPED:
            return active, graph_document(SHIPPED_FILE, lineage={})
        return active, registry.document(active)
    except PolicyFileError as error:
        raise ActivePolicyError(
            f"nothing can be compared with the active policy: {error}; `policies activate shipped` "
            "lets the one decide that comes along"
        ) from error
