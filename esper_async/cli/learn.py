"""`learn`: let Simic learn from what was experienced, and publish what fresh runs do not refute."""

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from esper_async.cli.failure import EXIT_FAILED, CommandError
from esper_async.cli.gate_text import record_lines
from esper_async.cli.output import Output
from esper_async.simic.learn import NothingToLearnError, learn_into
from esper_async.simic.registry import NotValidatedError, PolicyRegistry
from esper_async.study.gate.judging import (
    ActivePolicyError,
    NothingNewError,
    Verdict,
    active_policy,
    judge,
)
from esper_async.study.gate.plan import load_gate
from esper_async.study.ledger import code_fingerprint
from esper_async.tamiyo.errors import PolicyFileError
from esper_async.tamiyo.policies.learned import FeatureVersionError


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asked `learn` for."""

    learner: str
    file: Path | None
    keep_back: float
    gate: Path | None
    workers: int | None


def learn(state_dir: Path, output: Output, asked: Asked) -> int:
    """Learn from a part of the runs, judge by the rest and by fresh ones; 1 if it does not pass.

    Raises:
        CommandError: there is no experience, or none that teaches anything, or nothing to compare
            with.
        ConfigurationError: the gate's plan is wrong; nothing was done.
    """
    plan = load_gate(asked.gate)
    path = asked.file or state_dir / "simic" / f"{asked.learner}.json"
    try:
        parent, _ = active_policy(PolicyRegistry.of(state_dir))
        lineage = {"code": code_fingerprint(), "command": _command(asked), "parent": parent}
        learned = learn_into(
            state_dir, path, learner=asked.learner, keep_back=asked.keep_back, lineage=lineage
        )
        verdict = judge(
            state_dir, json.loads(path.read_bytes()), plan, workers=asked.workers, tell=tell
        )
    except (FileNotFoundError, FeatureVersionError, NothingToLearnError) as error:
        raise CommandError(
            f"{error}; `collect FILE` gathers experience, and so does every run under `up`"
        ) from None
    except (ActivePolicyError, NothingNewError, NotValidatedError, PolicyFileError) as error:
        raise CommandError(str(error)) from error
    document = {"file": str(path), "id": verdict.entry.id, **verdict.record}
    output.result(document, [f"{path}: {learned.summary}", *verdict_lines(verdict, "learned")])
    return 0 if verdict.published else EXIT_FAILED


def verdict_lines(verdict: Verdict, name: str) -> list[str]:
    """Return what the gate said, for people; `name` is what run files call such a policy."""
    record, entry = verdict.record, verdict.entry
    if verdict.published:
        ending = (
            f"published: {entry.id} decides where a run asks for `{name}`, once the controller has "
            "asked it beside the one before"
        )
    else:
        ending = f"not published: {record['active']} stays active"
    return [
        *record_lines(record),
        ending,
        *(f"  {reason}" for reason in record["reasons"]),
        f"`policies show {entry.id}` has the whole record",
    ]


def _command(asked: Asked) -> str:
    words = ["bin/esper-supervisor", "learn", "--learner", asked.learner]
    words += ["--keep-back", f"{asked.keep_back:g}"]
    words += [] if asked.gate is None else ["--gate", str(asked.gate)]
    return shlex.join(words)


def tell(line: str) -> None:
    """Say how far it is, beside the result."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201
