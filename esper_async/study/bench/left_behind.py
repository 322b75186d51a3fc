"""What a run that was killed has left on disk: what it was at, and what it has told."""

from collections import Counter
from pathlib import Path
from typing import Any

from esper_async.runtime.journal import read_journal

_NAMED_BY = {
    "boundary": (),
    "decision": ("policy", "command"),
    "transition": ("seed", "from_stage", "to_stage"),
    "field_report": ("report_id",),
}


def at_work(folder: Path) -> list[str]:
    """Return what was going on at the last record: the seeds' stages, "checkpoint" if so."""
    stages: dict[str, str] = {}
    for record in read_journal(folder / "journal.jsonl"):
        if record["kind"] == "transition":
            stages[record["seed"]] = record["to_stage"]
    states = (folder / "checkpoints").glob("*.pt")
    writing = not all(path.with_suffix(".json").exists() for path in states)
    return sorted(set(stages.values())) + (["checkpoint"] if writing else [])


def told(folder: Path) -> Counter[tuple[Any, ...]]:
    """Return every record whose effect must happen once, with how often it was written."""
    found: Counter[tuple[Any, ...]] = Counter()
    for record in read_journal(folder / "journal.jsonl"):
        name = _NAMED_BY.get(record["kind"])
        if name is not None:
            found[(record["kind"], record["boundary"], *(str(record[key]) for key in name))] += 1
    return found


def amiss(expected: Counter[tuple[Any, ...]], found: Counter[tuple[Any, ...]]) -> int:
    """Return how many records are there too often or too seldom."""
    return ((found - expected) + (expected - found)).total()
