"""`esper-supervisor study FILE`: the plan is written down, the runs are made, the answers given."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import anyio

from esper_async.runtime.files import write_atomically, write_json_atomically
from esper_async.study.analysis import Answer, ArmRow, answers, arm_rows
from esper_async.study.conduct import Conductor, Findings
from esper_async.study.ledger import Ledger, code_fingerprint
from esper_async.study.page import page
from esper_async.study.plan import StudyPlan, load_plan, with_first_seed
from esper_async.study.pool import Pool, Tally, worker_spec
from esper_async.study.repetition import Overlap, overlap
from esper_async.study.tables import write_tables


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What a study has found, and where it is written.

    `overlap` is that with the study of the plan's own seeds, where this one repeats it with others.
    """

    findings: Findings
    arms: list[ArmRow]
    answers: list[Answer]
    folder: Path
    ran: int
    known: int
    overlap: Overlap | None = None


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
    policy `learned` decide by the document `learned`; default: the shipped one.

    Raises:
        ConfigurationError: the plan is wrong; nothing was run.
        OSError: the results cannot be written.
    """
    plan = written = load_plan(file)
    if first_seed is not None:
        plan = with_first_seed(plan, first_seed)
    folder = _folder(root, plan)
    write_plan(folder, plan)
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
    findings = anyio.run(Conductor(plan, pool, code, learned=learned).run)
    findings.failures |= tally.failures
    arms, found = arm_rows(findings), answers(findings)
    write_tables(folder, findings, arms, found)
    again = "" if first_seed is None else f" --first-seed {first_seed}"
    command = f"bin/esper-supervisor study {file}{again}"
    document = page(findings, arms, found, command=command)
    write_atomically(folder / "index.html", document.encode())
    first = _folder(root, written)
    repeats = first != folder and (first / "comparisons.csv").exists()
    return StudyResult(
        findings,
        arms,
        found,
        folder,
        tally.done - tally.cached,
        tally.cached,
        overlap(folder, first) if repeats else None,
    )


def _folder(root: Path, plan: StudyPlan) -> Path:
    return root / f"{plan.name.replace(' ', '-')}-{plan.hash[:8]}"


class _Plan(Protocol):
    @property
    def hash(self) -> str: ...

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


def write_plan(folder: Path, plan: _Plan) -> None:
    """Write the plan down before anything is run; one that is there already is the same."""
    path = folder / "plan.json"
    if not path.exists():
        write_json_atomically(path, {"hash": plan.hash, "plan": plan.model_dump(mode="json")})


def unanswered(found: Sequence[Answer]) -> list[str]:
    """Return in words which comparisons do not hold, or were not measured."""
    return [
        f"{each.asked.treated} over {each.asked.control} on {each.task}: "
        + ("not measured" if each.holds is None else f"this does not hold: {each.asked.rule}")
        for each in found
        if not each.holds
    ]
