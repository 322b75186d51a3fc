"""A study's results as CSV files, for other programs."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from esper_async.runtime.files import write_atomically
from esper_async.study.analysis import Answer, ArmRow
from esper_async.study.conduct import Findings
from esper_async.study.plan import Setting


def write_tables(
    folder: Path, findings: Findings, arms: Sequence[ArmRow], answers: Sequence[Answer]
) -> None:
    """Write `runs.csv`, `arms.csv` and `comparisons.csv`; a figure that is absent is empty."""
    _write(folder / "runs.csv", _RUNS, _runs(findings))
    _write(folder / "arms.csv", _ARMS, map(_arm, arms))
    _write(folder / "comparisons.csv", _ANSWERS, map(_answer, answers))


_RUNS = (
    "task", "arm", "seed", "rate", "schedule", "draw", "score", "validation", "parameters",
    "epochs", "steps", "host_macs", "shadow_macs", "judging_macs", "twin_macs", "culled_macs",
    "total_macs", "wall_s", "peak_memory_bytes", "planted", "kept", "failure",
)  # fmt: skip
_ARMS = (
    "task", "arm", "rate", "schedule", "draw", "score", "low", "high", "runs", "diverged",
    "parameters", "total_macs", "shadow_share", "judging_share", "twin_share", "culled_share",
    "planted", "kept", "judged", "helped", "steps", "wall_s", "peak_memory_bytes",
)  # fmt: skip
_ANSWERS = (
    "treated", "control", "task", "difference", "low", "high", "chance", "chance_low",
    "chance_high", "parameters", "rule", "holds", "reason",
)  # fmt: skip


def _runs(findings: Findings) -> Iterable[Sequence[object]]:
    for (task, arm, seed), run in sorted(findings.runs.items()):
        kept = " ".join(f"{each['blueprint']}@{each['site']}" for each in run.kept)
        yield (
            task, arm, seed, *_setting(findings.settings.get((task, arm))), run.score,
            run.validation, run.parameters, run.epochs, run.steps, run.host_macs, run.shadow_macs,
            run.judging_macs, run.twin_macs, run.culled_macs, run.total_macs, round(run.wall_s, 3),
            run.peak_memory_bytes, sum(count for _, count in run.planted), kept, run.failure,
        )  # fmt: skip


def _arm(row: ArmRow) -> Sequence[object]:
    score = row.score
    interval = (None,) * 3 if score is None else (score.value, score.low, score.high)
    return (
        row.task, row.arm, *_setting(row.setting), *interval, row.runs, row.diverged,
        row.parameters, row.total_macs, row.shadow_share, row.judging_share, row.twin_share,
        row.culled_share, row.planted, row.kept, row.judged, row.helped, row.steps, row.wall_s,
        row.peak_memory_bytes,
    )  # fmt: skip


def _setting(setting: Setting | None) -> Sequence[object]:
    return (None,) * 3 if setting is None else (setting.rate, setting.schedule, setting.draw)


def _answer(answer: Answer) -> Sequence[object]:
    found: list[object] = []
    for estimate in (answer.difference, answer.chance):
        found += [None] * 3 if estimate is None else [estimate.value, estimate.low, estimate.high]
    asked = answer.asked
    return (
        asked.treated, asked.control, answer.task, *found, answer.parameters, asked.rule,
        answer.holds, answer.reason,
    )  # fmt: skip


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
