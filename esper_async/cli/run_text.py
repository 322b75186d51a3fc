"""Runs as text: one line of progress, a table of many, and the honest table at the end."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from esper_async.cli.output import number, table

Json = Mapping[str, Any]
ONE_RUN = "One run is not evidence: intervals are over test samples, not over runs."


def runs_table(runs: Sequence[Json]) -> list[str]:
    """Return a table of run summaries."""
    rows = [
        (
            run["id"],
            run["state"],
            f"{run['epoch'] or 0}/{run['epochs']}",
            run["policy"],
            number(run["metrics"].get("validation_loss")),
            _primary(run),
            sum(seed["stage"] == "FOSSILIZED" for seed in run["seeds"] or ()),
        )
        for run in runs
    ]
    headers = ("RUN", "STATE", "EPOCH", "POLICY", "VAL LOSS", "PRIMARY METRIC", "KEPT")
    at = [f"{run['name']} is {what}" for run in runs if (what := doing(run))]
    return [*table(headers, rows), *at] or [
        "no runs yet; submit one with `esper-supervisor run digits`"
    ]


def seeds_table(seeds: Iterable[Json]) -> list[str]:
    """Return a table of a run's seeds."""
    rows = [
        (
            seed["id"],
            seed["site"],
            seed["blueprint"],
            seed["stage"],
            number(seed["alpha"], 2),
            quantity(seed["clean_contribution"]),
            quantity(seed["benefit_vs_twin"]),
        )
        for seed in seeds
    ]
    return table(("SEED", "SITE", "BLUEPRINT", "STAGE", "ALPHA", "CLEAN", "VS TWIN"), rows)


def quantity(value: Json | None) -> str:
    """Return a measured quantity with its interval; absent is "not measured", never 0."""
    if value is None:
        return "not measured"
    mean, low, high = value["mean"], value["low"], value["high"]
    mark = " (estimated)" if value.get("estimated") else ""
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]{mark}"


def quantity_named(seed: Json) -> str:
    """Return the weightiest quantity measured of a seed, by its name: they are never confused."""
    for key, name in (("benefit_vs_twin", "benefit vs twin"), ("clean_contribution", "clean")):
        if seed[key] is not None:
            return f"{name} {quantity(seed[key])}"
    return ""


def result_line(result: Json) -> list[str]:
    """Return what the test split said, for a run without a table."""
    test = result.get("test")
    if not test:
        return []
    figures = ", ".join(f"{name} {value:.4f}" for name, value in test.items())
    return [f"test {figures}; {result['parameters']:,} parameters; {result['wall_s']:.1f} s"]


def doing(run: Json) -> str | None:
    """Return what a run's training process is at when that is not training, else None."""
    progress = run.get("progress") or {}
    phase, total = progress.get("phase"), progress.get("total")
    if phase is not None:
        return f"{phase} {progress['done']}/{total}" if total else str(phase)
    starting = "step" in progress and progress["step"] is None
    return "starting its process" if starting else None


def progress_line(run: Json) -> str:
    """Return one line about where a run is."""
    metrics = run["metrics"]
    parts = [f"{run['id']}  {run['state']}  epoch {run['epoch'] or 0}/{run['epochs']}"]
    shown = (("training_loss", "train loss"), ("validation_loss", "val loss"))
    parts += [f"{words} {metrics[key]:.4f}" for key, words in shown if metrics.get(key) is not None]
    primary = _primary(run)
    if primary is not None:
        parts.append(f"val {primary}")
    active = stages_of(run["seeds"] or ())
    if active:
        parts.append("seeds " + ", ".join(f"{count} {stage}" for stage, count in active.items()))
    cost = cost_of(run)
    if cost is not None:
        parts.append(cost)
    what = doing(run)
    if what:
        parts.append(what)
    return "  ".join(parts)


def cost_of(run: Json) -> str | None:
    """Return how long steps take, over the host's own part of them; None if not measured."""
    ratio = run.get("overhead_ratio")
    return None if ratio is None else f"takes {ratio:.2f} times the host's own time"


def _primary(run: Json) -> str | None:
    """Return the task's own metric and its value, None where that is the loss."""
    key = run.get("primary_metric")
    value = run["metrics"].get(key)
    if key == "validation_loss" or value is None:
        return None
    return f"{str(key).removeprefix('validation_')} {value:.4f}"


def stages_of(seeds: Iterable[Json]) -> dict[str, int]:
    """Return how many seeds are in each stage, in lower case, those that are gone left out."""
    gone = {"DORMANT", "CULLED", "EMBARGOED", "RESETTING", "TERMINATED"}
    counts: dict[str, int] = {}
    for seed in seeds:
        if seed["stage"] not in gone:
            stage = seed["stage"].lower()
            counts[stage] = counts.get(stage, 0) + 1
    return counts


def comparison_table(rows: Sequence[Json]) -> list[str]:
    """Return the table at a run's end and the line that one run is not evidence."""
    if not rows:
        return []
    body = [
        (
            row["name"],
            f"{row['value']:.4f}",
            f"[{row['low']:.4f}, {row['high']:.4f}]",
            number(row["parameters"]),
            f"{row['wall_s']:.1f} s",
        )
        for row in rows
    ]
    metric = rows[0]["metric"]
    headers = (f"test {metric}", "mean", "95 % over samples", "parameters", "wall-clock")
    return [*table(headers, body), ONE_RUN]


def parting_line(run: Json, *, drained: bool | None, again: str) -> str:
    """Return where an unfinished run stands when its supervisor ends; `again` takes it up.

    `drained` says whether its training process left with a checkpoint, None that it had none.
    """
    place = f"at epoch {run['epoch'] or 0} of {run['epochs']}"
    if drained is None:
        return f"{run['name']} waits {place} ({run['state']}); `{again}` takes it up"
    if drained:
        return f"{run['name']} stopped {place} with a checkpoint; `{again}` goes on"
    return (
        f"{run['name']} was cut short {place}; `{again}` goes on from its last checkpoint "
        "and repeats the steps since"
    )


def refusal_lines(name: str, notes: Iterable[Json], *, after_seq: int) -> list[str]:
    """Return a line for each command refused after record `after_seq`."""
    return [
        f"{name}: a command was refused: {note['reason']}"
        for note in notes
        if note["kind"] == "command_refused" and note["seq"] > after_seq
    ]


def ending(name: str, state: str, error: str | None) -> str:
    """Return the line that says how a run ended."""
    return f"{name}: {state}" + (f": {error}" if error else "")
