"""`collect FILE`: many small runs under randomised policies, and what is kept of them."""

import sys
from pathlib import Path

from esper_async.cli.failure import EXIT_FAILED
from esper_async.cli.output import Output
from esper_async.simic.store import Intake
from esper_async.study.collect.gathering import collect as gather


def collect(file: Path, state_dir: Path, output: Output, *, workers: int | None) -> int:
    """Make the runs of a collection and say what was stored; 1 when a run has no result."""
    done = gather(file, state_dir, workers=workers, tell=_tell)
    stored = {kind.value: done.stored[kind] for kind in Intake}
    document = {
        "name": done.plan.name,
        "plan_hash": done.plan.hash,
        "ran": done.ran,
        "known": done.known,
        "diverged": done.diverged,
        "messages": stored,
        "failures": done.failures,
    }
    lines = [
        f"plan {done.plan.hash}",
        f"{done.ran} runs made, {done.known} known before, {done.diverged} diverged",
        f"{stored['stored']} decisions and reports stored, {stored['duplicate']} were there "
        f"already, {stored['rejected']} rejected",
    ]
    output.result(document, lines)
    for what, why in done.failures.items():
        _tell(f"{what}: {why}")
    return EXIT_FAILED if done.failures else 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
