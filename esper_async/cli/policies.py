"""The learned policies of a state directory; a supervisor may use it meanwhile."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from esper_async.cli.failure import EXIT_WRONG_REQUEST, CommandError
from esper_async.cli.gate_text import record_lines
from esper_async.cli.output import Output, table
from esper_async.simic.registry import PolicyRegistry, shipped_row
from esper_async.tamiyo.errors import PolicyFileError
from esper_async.tamiyo.feature_versions import GRAPH_VERSION, PLACEMENT_VERSION
from esper_async.tamiyo.published import check_known, registry_path

T = TypeVar("T")


def list_policies(state_dir: Path, output: Output) -> None:
    """Show every policy, newest first, and the one that comes with the program last."""
    published = registry_path(state_dir).is_dir()
    rows = _asked(state_dir, PolicyRegistry.policies) if published else [shipped_row(active=True)]
    lines = table(
        ("ID", "STATE", "CONTROLLER", "FEATURES", "PARENT", "MADE"),
        [
            (
                row["id"],
                row["state"],
                _controller(row),
                row.get("features"),
                row.get("parent"),
                _when(row),
            )
            for row in rows
        ],
    )
    output.result(rows, lines)


def show_policy(state_dir: Path, policy_id: str, output: Output) -> None:
    """Show an entry and its last validation record."""
    entry = _asked(state_dir, lambda kept: check_known(kept.book(), policy_id))
    record = _asked(state_dir, lambda kept: kept.record(policy_id))
    lineage = [f"  {name}: {value}" for name, value in entry.lineage.items()]
    reasons = [f"  {reason}" for reason in record["reasons"]]
    passed = "passed the gate" if record["passes"] else "did not pass the gate"
    output.result(
        {**asdict(entry), "record": record},
        [
            f"{policy_id}: {entry.state}, {passed}",
            *reasons,
            *record_lines(record),
            "it came from",
            *lineage,
        ],
    )


def show_history(state_dir: Path, output: Output) -> None:
    """Show what happened, in the registry and at the controller's desk, newest first."""
    events = _asked(state_dir, PolicyRegistry.history)
    lines = table(
        ("TIME", "BY", "ID", "WHAT", "WHY"),
        [(_time(each["at"]), *(each[name] for name in ("by", "id", "what", "reason")))
         for each in events],
    )  # fmt: skip
    output.result(events, lines)


def activate_policy(state_dir: Path, policy_id: str, output: Output) -> None:
    """Let a policy become the active one."""
    _asked(state_dir, lambda kept: kept.activate(policy_id))
    output.result({"active": policy_id}, [_now_active(policy_id)])


def roll_back_policy(state_dir: Path, output: Output, *, of: str) -> None:
    """Put back the policy before the active one, of those that decide `of` runs."""
    features = GRAPH_VERSION if of == "gnn" else PLACEMENT_VERSION
    policy_id = _asked(state_dir, lambda kept: kept.roll_back(features))
    output.result({"active": policy_id}, [_now_active(policy_id)])


def _now_active(policy_id: str) -> str:
    return (
        f"{policy_id} is active in the registry; it decides once the controller has asked it "
        "beside the one before, at once if it has decided earlier: `policies` shows how far it is"
    )


def _asked(state_dir: Path, ask: Callable[[PolicyRegistry], T]) -> T:
    if not registry_path(state_dir).is_dir():
        raise CommandError(
            f"no policy has been learned in {state_dir}, and the shipped one decides: `learn` "
            "makes one from experience, or name another --state-dir",
            EXIT_WRONG_REQUEST,
        )
    try:
        return ask(PolicyRegistry.of(state_dir))
    except LookupError as error:
        raise CommandError(str(error), EXIT_WRONG_REQUEST) from error
    except (PolicyFileError, ValueError, OSError) as error:
        raise CommandError(str(error)) from error


def _controller(row: Mapping[str, Any]) -> str | None:
    """Say how far a policy's update has come."""
    told = row.get("controller")
    if told is None:
        return None
    if told["stage"] == "staged":
        return f"staged, {told['states']} of {told['states_wanted']} states"
    return "active, watched" if told["watched"] else str(told["stage"])


def _when(row: Mapping[str, Any]) -> str | None:
    return None if row["created_at"] is None else _time(row["created_at"])


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
