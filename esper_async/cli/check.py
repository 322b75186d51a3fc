"""`check`: a run file tried out in a process of its own, and what it said, rendered."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from esper_async.cli.failure import CommandError
from esper_async.cli.output import Output, number, table
from esper_async.tolaria.run_file import RunFile, find_run, load_run

MODULE = "esper_async.tolaria.check"


def check(name_or_path: str, output: Output) -> int:
    """Try a run file out; returns 0 when it can be trained, 1 when not.

    Raises ConfigurationError for a file that is not right, CommandError when the check itself
    broke down.
    """
    run_file = load_run(name_or_path)
    finished = subprocess.run(
        [sys.executable, "-P", "-m", MODULE, str(find_run(name_or_path).resolve()), "--json"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        check=False,
        text=True,
    )
    try:
        document = json.loads(finished.stdout)
    except ValueError:
        raise CommandError(
            f"the check of {name_or_path} ended with exit code {finished.returncode} before it "
            "could report; what it said is above"
        ) from None
    output.result(document, _lines(run_file, document))
    return 1 if document["problems"] else 0


def _lines(run_file: RunFile, document: Mapping[str, Any]) -> list[str]:
    lines = [f"{run_file.run.name}: {run_file.run.task}"]
    model = document.get("model")
    if model:
        lines.append(f"model: {model}" if isinstance(model, str) else f"model: {_pairs(model)}")
    sites = document.get("sites") or []
    if sites:
        lines += ["", *table(*_columns(sites)), ""]
    if "resumable" in document:
        why = document.get("resumable_why")
        lines.append(f"resume will be {document['resumable']}" + (f": {why}" if why else ""))
    if document.get("compiled"):
        lines += _compiled(document["compiled"])
    problems = document["problems"]
    lines += [f"problem: {problem}" for problem in problems]
    lines += [f"note: {note}" for note in document.get("notes") or []]
    if not problems:
        lines.append("it can be trained")
    return lines


def _compiled(plan: Mapping[str, Any]) -> list[str]:
    regions = [region["path"] or "the whole model" for region in plan["regions"]]
    lines = [f"compiled for training ({plan['backend']}): {', '.join(regions)}"]
    for region, name in zip(plan["regions"], regions, strict=True):
        if region["sites_inside"]:
            sites = ", ".join(region["sites_inside"])
            lines.append(f"  inside {name}, where blending costs a pause to compile: {sites}")
    return lines


def _columns(items: list[Mapping[str, Any]]) -> tuple[list[str], list[list[object]]]:
    names = list(items[0])
    rows = [[_cell(item.get(name)) for name in names] for item in items]
    return [name.replace("_", " ").upper() for name in names], rows


def _cell(value: object) -> object:
    if isinstance(value, list):
        return "x".join(map(str, value)) if all(isinstance(v, int) for v in value) else len(value)
    return number(value) or value


def _pairs(document: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {number(v) or v}" for name, v in document.items())
