"""A run's journal with replay: a resumed run repeats its own decisions and tells nothing twice."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from esper_async.runtime.journal import Journal, read_journal

Listener = Callable[[Mapping[str, Any]], None]
_ONCE = {"boundary", "decision", "transition", "field_report", "run_started"}


class RunJournal:
    """Numbers, writes and announces the records of a run.

    After a resume the records written past the checkpoint are still there: what the run does again
    is recognised by its identity and not written a second time, and a decision taken then is taken
    again. Without a path the records are announced but not kept.
    """

    def __init__(self, run_id: str, path: Path | None, listener: Listener | None = None) -> None:
        self._run_id = run_id
        self._listener = listener
        self._past: list[dict[str, Any]] = []
        self._journal: Journal | None = None
        self._memory_seq = 0
        self._done: Counter[tuple[Any, ...]] = Counter()
        self._decisions: dict[int, list[dict[str, Any]]] = {}
        if path is not None:
            self._past = list(read_journal(path))
            self._journal = Journal.open(path)

    @property
    def last_seq(self) -> int:
        """Number of the newest record."""
        return self._memory_seq if self._journal is None else self._journal.last_seq

    def resume(self, after_seq: int) -> list[dict[str, Any]]:
        """Prepare to repeat what was recorded after `after_seq`; return those records."""
        again = [record for record in self._past if record["seq"] > after_seq]
        self._done = Counter(_identity(record) for record in again if record["kind"] in _ONCE)
        self._decisions = {}
        for record in again:
            if record["kind"] == "decision":
                self._decisions.setdefault(record["boundary"], []).append(record)
        return again

    def decisions(self, boundary: int, policy: str) -> list[dict[str, Any]]:
        """Return the decisions of `policy` recorded at a boundary that is being repeated."""
        found = self._decisions.get(boundary, [])
        return [record for record in found if record["policy"] == policy]

    def record(self, kind: str, position: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        """Write a record durably, announce it, and return it; repeat nothing.

        Raises:
            OSError: the disk refused.
        """
        body = _finite(
            {"kind": kind, "time": time.time(), "run": self._run_id, **position, **fields}
        )
        if kind in _ONCE:
            identity = _identity(body)
            if self._done[identity] > 0:
                self._done[identity] -= 1
                return {"seq": 0, **body}
        if self._journal is None:
            self._memory_seq += 1
            seq = self._memory_seq
        else:
            seq = self._journal.append(body)
        record = {"seq": seq, **body}
        if self._listener is not None:
            self._listener(record)
        return record

    def close(self) -> None:
        """Close the file."""
        if self._journal is not None:
            self._journal.close()


def _identity(record: Mapping[str, Any]) -> tuple[Any, ...]:
    command = record.get("command") or {}
    return (
        record["kind"],
        record["boundary"],
        record.get("seed"),
        record.get("to_stage"),
        record.get("report_id"),
        command.get("id"),
    )


def _finite(value: Any) -> Any:
    """Return JSON values in which what is not finite is None: not measured."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
