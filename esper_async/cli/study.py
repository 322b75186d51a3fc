"""`study FILE...`: plans are run, and their answers are shown with the plans' hashes."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from esper_async.cli.failure import EXIT_FAILED, CommandError
from esper_async.cli.output import Output, number, table
from esper_async.simic.learn import NothingToLearnError
from esper_async.study.command import StudyResult, run_study, unanswered
from esper_async.study.plan import load_plan, with_first_seed
from esper_async.study.scratch_policy import RunsFailedError
from esper_async.study.statistics import Estimate


def studies(
    files: Sequence[Path],
    root: Path,
    output: Output,
    *,
    workers: int | None,
    check: bool,
    first_seed: int | None,
    learned: Mapping[str, Any],
) -> int:
    """Run studies one after the other and show what each found; the exit code.

    1 when a run has no result, or with `check` when a comparison of a plan does not hold. Nothing
    is run when one of the plans is wrong. Arms of the policy `learned` decide by that document,
    where a plan does not say how to make one.

    Raises:
        CommandError: the runs that were to teach such a policy did not.
    """
    for file in files:
        plan = load_plan(file)
        if first_seed is not None:
            with_first_seed(plan, first_seed)
    code = 0
    for file in files:
        try:
            result = run_study(
                file, root, first_seed=first_seed, workers=workers, learned=learned, tell=_tell
            )
        except (NothingToLearnError, RunsFailedError) as error:
            raise CommandError(f"{file}: {error}") from error
        code = max(code, _shown(result, output, check=check))
    return code


def _shown(result: StudyResult, output: Output, *, check: bool) -> int:
    output.result(_document(result), _lines(result))
    failures = result.findings.failures
    for what, why in failures.items():
        _tell(f"{what}: {why}")
    if failures:
        return EXIT_FAILED
    missing = unanswered(result.answers) if check else []
    for each in missing:
        _tell(each)
    return EXIT_FAILED if missing else 0


def _lines(result: StudyResult) -> list[str]:
    arms = table(
        ("TASK", "ARM", "SETTING", "IQM", "LOW", "HIGH", "PARAMETERS", "GMAC", "S A RUN", "RUNS"),
        [
            (
                row.task, row.arm, row.setting, *_interval(row.score), f"{row.parameters:.0f}",
                number(row.total_macs / 1e9, 3), number(row.wall_s, 1), row.runs,
            )
            for row in result.arms
        ],
    )  # fmt: skip
    asked = table(
        ("TREATED", "CONTROL", "TASK", "BETTER BY", "LOW", "HIGH", "P(BETTER)", "HOLDS"),
        [
            (
                each.asked.treated, each.asked.control, each.task, *_interval(each.difference),
                None if each.chance is None else f"{each.chance.value:.2f}",
                {True: "yes", False: "no", None: "not measured"}[each.holds],
            )
            for each in result.answers
        ],
    )  # fmt: skip
    return [
        *arms,
        "",
        *(asked or ["the plan asks no question"]),
        "",
        *_repetition(result),
        *([] if result.taught is None else [result.taught.words]),
        f"plan {result.findings.plan.hash}",
        f"{result.ran} runs made, {result.known} known before; {result.folder / 'index.html'}",
    ]


def _repetition(result: StudyResult) -> list[str]:
    found = result.overlap
    if found is None:
        return []
    return [f"{found.overlapping} of {found.count} intervals overlap those of {found.against}"]


def _interval(estimate: Estimate | None) -> tuple[str | None, str | None, str | None]:
    if estimate is None:
        return (None, None, None)
    return (f"{estimate.value:.2f}", f"{estimate.low:.2f}", f"{estimate.high:.2f}")


def _document(result: StudyResult) -> dict[str, Any]:
    return {
        "name": result.findings.plan.name,
        "plan_hash": result.findings.plan.hash,
        "code": result.findings.code,
        "folder": str(result.folder),
        "ran": result.ran,
        "known": result.known,
        "arms": [asdict(row) for row in result.arms],
        "answers": [
            {
                "treated": each.asked.treated,
                "control": each.asked.control,
                "task": each.task,
                "difference": None if each.difference is None else asdict(each.difference),
                "chance": None if each.chance is None else asdict(each.chance),
                "parameters": each.parameters,
                "rule": each.asked.rule,
                "holds": each.holds,
                "reason": each.reason,
            }
            for each in result.answers
        ],
        "learned": None
        if (taught := result.taught) is None
        else {"file": str(taught.file), "is_shipped": taught.is_shipped},
        "overlap": None if result.overlap is None else result.overlap.share,
        "failures": result.findings.failures,
    }


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
