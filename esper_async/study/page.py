"""A study's result as one HTML page that needs nothing else: answers, tables, charts, the plan."""

import json
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from esper_async.study.analysis import Answer, ArmRow, scores
from esper_async.study.cell import CellResult
from esper_async.study.charts import Bar, Dot, Line, dot_chart, line_chart, timeline
from esper_async.study.conduct import Findings
from esper_async.study.statistics import Estimate, student_t_quantile

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --soft: #8883; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #16181b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--soft); }
th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; height: auto; display: block; }
svg text { font-size: 11px; fill: var(--ink); }
.frontier { stroke: var(--ink); fill: none; stroke-dasharray: 2 3; }
.axis { stroke: var(--ink); fill: none; } .grid { stroke: var(--soft); fill: none; }
.yes { color: #2b8a3e; } .no { color: #c92a2a; } .none { opacity: .7; }
code { overflow-wrap: anywhere; } details { margin: 1rem 0; } .scroll { overflow-x: auto; }
"""
_FATES = {"FOSSILIZED": "#3ca951", "CULLED": "#ff725c"}
_OPEN = "#9498a0"
_MOST_TIMELINES = 40


def page(
    findings: Findings, arms: Sequence[ArmRow], answers: Sequence[Answer], *, command: str
) -> str:
    """Return the page; `command` is what repeats the study."""
    plan = findings.plan
    parts = [
        f"<h1>{escape(plan.name)}</h1>",
        f"<p>{escape(plan.question)}</p>",
        f"<p><b>Decided beforehand:</b> {escape(plan.decision)}</p>",
        f"<p>Plan <code>{plan.hash}</code>, code <code>{escape(findings.code)}</code>. "
        f"Repeat it with <code>{escape(command)}</code>.</p>",
        *_failures(findings),
        "<h2>Answers</h2>",
        _answers_table(answers),
        "<h2>Arms</h2>",
        _arms_table(arms, findings),
    ]
    for task in plan.tasks:
        parts += _task_section(findings, [row for row in arms if row.task == task], task)
    if len(plan.tasks) > 1:
        parts += ["<h2>Over all tasks</h2>", _profile(findings, list(plan.tasks))]
    parts += [_tuning(findings), _plan(findings)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(plan.name)}</title><style>{_STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def _failures(findings: Findings) -> list[str]:
    if not findings.failures:
        return []
    told = "".join(f"<li>{escape(k)}: {escape(v)}</li>" for k, v in findings.failures.items())
    return [f'<p class="no">Runs without a result:</p><ul>{told}</ul>']


def _answers_table(answers: Sequence[Answer]) -> str:
    if not answers:
        return '<p class="none">The plan asks no question.</p>'
    rows = []
    for each in answers:
        asked = each.asked
        verdict = {True: '<span class="yes">yes</span>', False: '<span class="no">no</span>'}
        rows.append(
            (
                f"{escape(asked.treated)} over {escape(asked.control)}",
                escape(each.task),
                _estimate(each.difference) if each.difference else escape(each.reason),
                _estimate(each.chance, digits=2),
                escape(asked.rule),
                "not measured" if each.holds is None else verdict[each.holds],
            )
        )
    header = ("", "task", "difference of IQM [95 %]", "P(improvement)", "rule", "holds")
    return _table(header, rows) + (
        "<p>Differences of interquartile means over paired seeds, improvements positive; "
        "intervals by stratified paired bootstrap.</p>"
    )


def _arms_table(arms: Sequence[ArmRow], findings: Findings) -> str:
    static = {
        row.task: row.total_macs for row in arms if findings.plan.arms[row.arm].policy == "static"
        and findings.plan.arms[row.arm].kind == "run"
    }  # fmt: skip
    rows = [
        (
            escape(row.arm),
            escape(row.task),
            _estimate(row.score),
            "-" if row.setting is None else escape(str(row.setting)),
            f"{row.parameters:,.0f}",
            f"{row.total_macs / 1e9:,.2f}",
            f"{row.total_macs / static[row.task]:.2f}" if static.get(row.task) else "-",
            f"{row.shadow_share:.0%} / {row.judging_share:.0%} / {row.twin_share:.0%}",
            f"{row.culled_share:.0%}",
            f"{row.planted:.1f} / {row.kept:.1f}",
            f"{row.helped} of {row.judged}" if row.judged else "-",
            f"{row.steps:,.0f}",
            f"{row.wall_s:,.1f}",
            f"{row.peak_memory_bytes / 2**20:,.0f}",
            f"{row.runs}" + (f" ({row.diverged} diverged)" if row.diverged else ""),
        )
        for row in arms
    ]
    header = (
        "arm", "task", f"{findings.plan.primary}, IQM [95 %]", "setting", "parameters", "GMAC",
        "times static", "shadow / judging / twin", "culled", "planted / kept", "helped", "steps",
        "s a run", "MiB", "runs",
    )  # fmt: skip
    return _table(header, rows) + (
        "<p>Multiply-accumulates are of everything that a run computes to train; shares are of "
        "shadow passes, of measuring candidates, of twins, and of shadow passes for what was not "
        "kept. Helped: seeds whose benefit against their twin lies above 0 with its whole "
        "interval, of those that were compared with one.</p>"
    )


def _task_section(findings: Findings, arms: Sequence[ArmRow], task: str) -> list[str]:
    label = findings.plan.primary + (" (%)" if findings.plan.percent else "")
    dots = [(row, row.score) for row in arms if row.score is not None]
    size, cost = (
        [Dot(row.arm, getattr(row, name), each.value, each.low, each.high) for row, each in dots]
        for name in ("parameters", "total_macs")
    )
    return [
        f"<h2>{escape(task)}</h2>",
        f"<h3>Validation {escape(label)} over epochs</h3>",
        _curves(findings, task, label),
        f"<h3>Test {escape(label)} against parameters</h3>",
        dot_chart(size, x_label="parameters at the end", y_label=label, log_x=True),
        f"<h3>Test {escape(label)} against total compute</h3>",
        dot_chart(
            cost,
            x_label="multiply-accumulates in all",
            y_label=label,
            log_x=True,
            frontier="highest" if findings.plan.larger_is_better else "lowest",
        ),
        "<p>The line joins the arms that none of less compute betters.</p>",
        "<h3>Share of runs that reach a score</h3>",
        _profile(findings, [task]),
        "<h3>Seeds</h3>",
        _timelines(findings, task),
    ]


def _curves(findings: Findings, task: str, label: str) -> str:
    factor = 100.0 if findings.plan.percent else 1.0
    name = f"validation_{findings.plan.primary}"
    lines = []
    for arm in findings.plan.arms:
        runs = [run for run in findings.of(task, arm) if run is not None and run.history]
        if not runs:
            continue
        length = min(len(run.history) for run in runs)
        table = np.array(
            [[float(entry.get(name, np.nan)) for entry in run.history[:length]] for run in runs]
        )  # (runs, boundaries)
        mean = factor * table.mean(axis=0)
        half = np.zeros(length)
        if len(runs) > 1:
            quantile = student_t_quantile(len(runs) - 1, 0.95)
            half = factor * quantile * table.std(axis=0, ddof=1) / np.sqrt(len(runs))
        xs = [float(entry.get("epoch", place + 1)) for place, entry in enumerate(runs[0].history)]
        points = [(x, float(y)) for x, y in zip(xs, mean, strict=False)]
        band = [(float(y - h), float(y + h)) for y, h in zip(mean, half, strict=True)]
        lines.append(Line(arm, points, band))
    return line_chart(lines, x_label="epoch", y_label=label)


def _profile(findings: Findings, tasks: Sequence[str]) -> str:
    """The share of runs, over tasks alike, whose score is at least so good."""
    better = 1.0 if findings.plan.larger_is_better else -1.0
    found = {
        arm: [[each for each in scores(findings, task, arm) if each is not None] for task in tasks]
        for arm in findings.plan.arms
    }
    known = [each for runs in found.values() for part in runs for each in part]
    if not known:
        return line_chart([], x_label="", y_label="")
    levels = np.linspace(min(known), max(known), 80)
    lines = []
    for arm, runs in found.items():
        parts = [np.array(part) for part in runs if part]
        if parts:
            shares = [
                float(np.mean([np.mean(better * part >= better * level) for part in parts]))
                for level in levels
            ]
            lines.append(Line(arm, list(zip(map(float, levels), shares, strict=True))))
    return line_chart(lines, x_label=findings.plan.primary, y_label="share of runs")


def _timelines(findings: Findings, task: str) -> str:
    """A row for each seed of growth: grey while undecided, then kept or culled."""
    names: list[str] = []
    bars: list[Bar] = []
    end = 1.0
    grown = {arm: _grown(findings, task, arm) for arm in findings.plan.arms}
    each_arm = max(1, _MOST_TIMELINES // max(1, sum(map(bool, grown.values()))))
    for arm, runs in grown.items():
        for seed, run in runs[:each_arm]:
            last = float(len(run.history))
            end = max(end, last)
            names.append(f"{arm[:9]} {seed}")
            bars += _bars(run, len(names) - 1, last)
    note = (
        "<p>One row a run, the first few of each arm: green from where a kernel was kept, red "
        "where one was culled.</p>"
    )
    return timeline(names, bars, x_label="boundary", end=end) + note


def _grown(findings: Findings, task: str, arm: str) -> list[tuple[int, CellResult]]:
    """Return the runs of an arm in which anything was planted, with their seeds."""
    runs = zip(findings.plan.seeds_of_runs, findings.of(task, arm), strict=True)
    return [(seed, run) for seed, run in runs if run is not None and run.transitions]


def _bars(run: CellResult, row: int, last: float) -> list[Bar]:
    found: dict[str, list[tuple[float, str, str]]] = {}
    for each in run.transitions:
        what = f"{each['blueprint']} at {each['site']}"
        found.setdefault(str(each["seed"]), []).append(
            (float(each["boundary"]), str(each["to_stage"]), what)
        )
    bars = []
    for seed, steps in found.items():
        decided = [step for step in steps if step[1] in _FATES]
        start = steps[0][0]
        until = decided[0][0] if decided else last
        bars.append(Bar(row, start, until, _OPEN, f"{seed}: {steps[0][2]}, undecided"))
        for boundary, fate, what in decided:
            stays = last if fate == "FOSSILIZED" else boundary + 0.5
            text = f"{seed}: {what}, {fate.lower()} at {boundary:g}"
            bars.append(Bar(row, boundary, stays, _FATES[fate], text))
    return bars


def _tuning(findings: Findings) -> str:
    if not findings.tuning:
        return ""
    rows = [
        (escape(arm), escape(task), escape(str(tried)),
         "diverged" if np.isnan(mean) else f"{mean:.4g}",
         "chosen" if findings.settings.get((task, arm)) == tried else "")
        for (task, arm, tried), mean in findings.tuning.items()
    ]  # fmt: skip
    header = ("arm", "task", "setting", "mean on the decision split", "")
    return f"<details><summary>How settings were tuned</summary>{_table(header, rows)}</details>"


def _plan(findings: Findings) -> str:
    text = json.dumps(findings.plan.model_dump(mode="json"), indent=1)
    return f"<details><summary>The plan</summary><pre>{escape(text)}</pre></details>"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _estimate(estimate: Estimate | None, *, digits: int = 2) -> str:
    if estimate is None:
        return "not measured"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
