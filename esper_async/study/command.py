"""`esper-supervisor study FILE`: the plan is written down, the runs are made, the answers given."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from esper_async.runtime.files import write_atomically
from esper_async.study.analysis import Answer, ArmRow, answers, arm_rows
from esper_async.study.conduct import Conductor, Findings
from esper_async.study.ledger import Ledger, code_fingerprint
from esper_async.study.page import page
from esper_async.study.plan import load_plan, with_first_seed
from esper_async.study.pool import Pool, Tally, worker_spec
from esper_async.study.repetition import Overlap, overlap
from esper_async.study.scratch_policy import Taught, teach
from esper_async.study.tables import write_tables
from esper_async.study.written_plan import folder_of, write_plan


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What a study has found, and where it is written.

    `overlap` is that with the study of the plan's own seeds, where this one repeats it with others;
    `taught` is the policy that it made from scratch, where its plan wants one.
    """

    findings: Findings
    arms: list[ArmRow]
    answers: list[Answer]
    folder: Path
    ran: int
    known: int
    overlap: Overlap | None = None
    taught: Taught | None = None


def run_study(
    file: Path,
    root: Path,
    *,
    first_seed: int | None = None,
    workers: int | None = None,
    nice: int = 10,
    learned: Mapping[str, Any] | None = None,
    tell: Callable[[str], None],
) -> StudyResult:
    """Run the study of a plan file to its end; on the main thread.

    Results of single runs lie under `root`, where every study finds those that it shares with
    another; the study's own folder is named by its plan. What was interrupted goes on from there.
    Workers run at the priority `nice`, behind everybody else's work by default. With another
    `first_seed` than the plan's the study is repeated, and held against the first time. Arms of the
    policy `learned` decide by what the plan says how to learn; where it says nothing, by the
    document `learned`; default: the shipped one.

    Raises:
        ConfigurationError: the plan is wrong; nothing was run.
        NothingToLearnError, RunsFailedError: the runs that were to teach did not.
        OSError: the results cannot be written.
    """
    plan = written = load_plan(file)
    if first_seed is not None:
        plan = with_first_seed(plan, first_seed)
    folder = write_plan(root, plan)
    tell(f"{plan.name}: plan {plan.hash} is written to {folder / 'plan.json'}")
    code = code_fingerprint()
    tally = Tally()
    pool = Pool(
        Ledger(root / "cells", code),
        worker_spec(root, code, nice=nice),
        workers=workers or os.cpu_count() or 1,
        tell=tell,
        tally=tally,
    )
    again = "" if first_seed is None else f" --first-seed {first_seed}"
    command = f"bin/esper-supervisor study {file}{again}"
    taught = None
    if plan.learning is not None:
        taught = teach(
            plan.learning, root, folder, command=command, workers=workers, nice=nice, tell=tell
        )
        learned = taught.document
    findings = anyio.run(Conductor(plan, pool, code, learned=learned).run)
    findings.failures |= tally.failures
    arms, found = arm_rows(findings), answers(findings)
    write_tables(folder, findings, arms, found)
    document = page(findings, arms, found, command=command)
    write_atomically(folder / "index.html", document.encode())
    first = folder_of(root, written)
    repeats = first != folder and (first / "comparisons.csv").exists()
    return StudyResult(
        findings,
        arms,
        found,
        folder,
        tally.done - tally.cached,
        tally.cached,
        overlap(folder, first) if repeats else None,
        taught,
    )


def unanswered(found: Sequence[Answer]) -> list[str]:
    """Return in words which comparisons do not hold, or were not measured."""
    return [
        f"{each.asked.treated} over {each.asked.control} on {each.task}: "
        + ("not measured" if each.holds is None else f"this does not hold: {each.asked.rule}")
        for each in found
        if not each.holds
    ]
