"""What a run has lost, compared with the same run undisturbed: weights, records, reports."""

import hashlib
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper_async.drills.stage import Stage
from esper_async.runtime.journal import read_journal

_ARRIVAL_S = 20.0
_POLL_S = 0.1
_UNREPORTED = (None, "PAUSE", "RESUME")
_TOLD = {
    "boundary": (),
    "decision": ("policy",),
    "transition": ("seed", "from_stage", "to_stage"),
    "field_report": ("seed", "outcome"),
}
"""What must happen once at its boundary, by kind, with what tells two of a kind apart."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What a finished run leaves: a digest of its weights, and what its journal tells.

    `unpaired` names each command that was carried out and has not exactly one field report.
    """

    weights: str
    records: Counter[tuple[str, ...]]
    reports: tuple[str, ...]
    unpaired: tuple[str, ...] = ()


def trace_of(stage: Stage, run_id: str) -> Trace:
    """Read what a completed run has left; raises OSError when it left no model."""
    folder = stage.run_folder(run_id)
    records: Counter[tuple[str, ...]] = Counter()
    reports = []
    told = list(read_journal(folder / "journal.jsonl"))
    for record in told:
        names = _TOLD.get(record["kind"])
        if names is None:
            continue
        known = [str(record.get(name)).replace(run_id, "RUN") for name in names]
        records[(record["kind"], str(record["boundary"]), *known)] += 1
        if record["kind"] == "field_report":
            reports.append(str(record["report_id"]))
    return Trace(weights_in(folder / "model.pt"), records, tuple(reports), unpaired(told))


def unpaired(records: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the commands of a run that were carried out and have not exactly one field report.

    What does nothing (a no-op) or plants nothing (a pause) has none; neither has what was refused,
    which its boundary tells.
    """
    carried: dict[str, int] = {}
    reported: Counter[str] = Counter()
    refused: set[int] = set()
    for record in records:
        if record["kind"] == "field_report":
            reported[str(record["command_id"])] += 1
        elif record["kind"] == "command_refused":
            refused.add(record["boundary"])
        elif record["kind"] == "decision" and record["command"]["operation"] not in _UNREPORTED:
            carried[str(record["command"]["id"])] = record["boundary"]
    wanted = {command for command, boundary in carried.items() if boundary not in refused}
    odd = [command for command in sorted(wanted) if reported[command] != 1]
    return tuple(f"{command} has {reported[command]} field reports" for command in odd)


def weights_in(path: Path) -> str:
    """Return a digest over every tensor of a saved model, by name, type, shape and bits."""
    import torch

    document = torch.load(path, map_location="cpu", weights_only=True)
    seen = hashlib.sha256()
    for name, tensor in tensors_of(document, ""):
        seen.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        seen.update(tensor.detach().contiguous().view(-1).numpy().tobytes())
    return seen.hexdigest()


def tensors_of(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (place, tensor) for every tensor in nested containers; keys in order."""
    import torch

    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from tensors_of(value[key], f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from tensors_of(item, f"{path}.{place}")


def lost_by(stage: Stage, run_id: str, reference: Trace) -> list[str]:
    """Say what is not as it was in the undisturbed run; nothing when all is."""
    state = stage.state_of(run_id)
    if state.get("state") != "completed":
        return [f"run {run_id} is {state.get('state')}: {state.get('error')}"]
    found = trace_of(stage, run_id)
    lost = []
    if found.weights != reference.weights:
        lost.append(f"run {run_id}: the final weights are others")
    missing, surplus = reference.records - found.records, found.records - reference.records
    for words, records in (("not told", missing), ("told too often", surplus)):
        if records:
            lost.append(f"run {run_id}: {records.total()} records {words}: {next(iter(records))}")
    if len(set(found.reports)) != len(found.reports):
        lost.append(f"run {run_id}: a field report was told twice")
    lost += [f"run {run_id}: command {each}" for each in found.unpaired]
    lost += _unheard(stage, run_id, set(found.reports))
    return lost


def _unheard(stage: Stage, run_id: str, told: set[str]) -> list[str]:
    """Compare the reports that a run has told with those that Simic has stored; each arrives once.

    What is on its way is waited for.
    """
    deadline = time.monotonic() + _ARRIVAL_S
    while True:
        stored = Counter(_stored(stage.state_dir / "simic" / "experience.sqlite", run_id))
        late = told - set(stored)
        if not late or time.monotonic() > deadline:
            break
        time.sleep(_POLL_S)
    twice = [report for report, count in stored.items() if count > 1]
    return [
        *(f"field report {report} never arrived" for report in sorted(late)),
        *(f"field report {report} was stored twice" for report in sorted(twice)),
    ]


def _stored(path: Path, run_id: str) -> list[str]:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            rows = database.execute("SELECT id FROM experiences WHERE kind = 'report'").fetchall()
    except sqlite3.Error:
        return []
    return [str(row[0]) for row in rows if run_id in str(row[0])]


def waits(stage: Stage) -> list[str]:
    """Return the durable messages that are still in a spool, as topic and number."""
    found = []
    for path in stage.state_dir.glob("**/spool/spool.sqlite"):
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            rows = database.execute("SELECT topic, COUNT(*) FROM spool GROUP BY topic").fetchall()
        found += [f"{count} of {topic} in {path.parent.parent.name}" for topic, count in rows]
    return found


def settled(stage: Stage, patience_s: float) -> list[str]:
    """Wait until every spool is empty; return what still waits then."""
    return _nothing_of(lambda: waits(stage), patience_s)


def gone(stage: Stage, patience_s: float) -> list[str]:
    """Wait until no process of the stage is left; return what still runs then."""
    return _nothing_of(stage.left_behind, patience_s)


def _nothing_of(look: Callable[[], list[str]], patience_s: float) -> list[str]:
    deadline = time.monotonic() + patience_s
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return found
