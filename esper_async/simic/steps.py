"""Reading steps out of the store's tables: a decision with its reports, and its reward."""

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from esper_async.leyline import DecisionRecord, FieldReport
from esper_async.simic.experience import Experience, experience_of
from esper_async.simic.schema import DECISION, REPORT
from esper_async.simic.trajectory import Step

Key = tuple[str, str]
"""Run and command."""
_MOST_MARKS = 500


def keys_of(database: sqlite3.Connection, seqs: Sequence[int]) -> list[Key]:
    """Return run and command of messages, in the order of their numbers as given."""
    rows: dict[int, Key] = {}
    for some in _pieces(seqs):
        marks = ", ".join("?" * len(some))
        found = database.execute(
            f"SELECT seq, run, command FROM experiences WHERE seq IN ({marks})", some
        )
        rows.update((seq, (run, command)) for seq, run, command in found)
    return [rows[seq] for seq in seqs if seq in rows]


def steps_of(database: sqlite3.Connection, keys: Sequence[Key]) -> dict[Key, Experience]:
    """Return the steps of commands whose decisions are here, in the order of the keys."""
    reports: dict[Key, list[FieldReport]] = defaultdict(list)
    decisions: dict[Key, DecisionRecord] = {}
    for some in _pieces([command for _, command in keys]):
        marks = ", ".join("?" * len(some))
        for kind, run, command, message in database.execute(
            f"SELECT kind, run, command, message FROM experiences WHERE command IN ({marks})", some
        ):
            if kind == REPORT:
                reports[run, command].append(FieldReport.FromString(message))
            else:
                decisions[run, command] = DecisionRecord.FromString(message)
    gains = _gains(database, {run for run, _ in decisions})
    return {
        key: _experience(decisions[key], reports.get(key, ()), gains)
        for key in keys
        if key in decisions
    }


def _experience(
    decision: DecisionRecord, reports: Sequence[FieldReport], gains: Mapping[str, float]
) -> Experience:
    about = sorted(reports, key=lambda report: (report.boundary, report.report_id))
    step = Step(decision.boundary, decision, tuple(about))
    return experience_of(step, terminal_gain=gains.get(decision.decision_id))


def _gains(database: sqlite3.Connection, runs: Collection[str]) -> dict[str, float]:
    """Return the results that were told of runs, by the id of each one's last decision."""
    told = database.execute("SELECT run, terminal_gain FROM results").fetchall()
    found: dict[str, float] = {}
    for run, gain in told:
        if run in runs:
            (last,) = database.execute(
                "SELECT id FROM experiences WHERE run = ? AND kind = ?"
                " ORDER BY boundary DESC, told_at DESC, id DESC LIMIT 1",
                (run, DECISION),
            ).fetchone()
            found[last] = float(gain)
    return found


def _pieces(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut into pieces that one statement may have marks for."""
    for start in range(0, len(values), _MOST_MARKS):
        yield values[start : start + _MOST_MARKS]
