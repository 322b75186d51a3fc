"""A run's journal with replay: a resumed run repeats its own decisions and tells nothing twice."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from esper_async.runtime.journal import Journal, read_journal

Listener = Callable[[Mapping[str, Any]], None]
_ONCE = {
    "boundary",
    "decision",
    "transition",
    "field_report",
    "run_started",
    "emergency",
    "early_stop",
    "policy_shadowed",
    "policy_activated",
    "policy_watched",
}
_LASTING = ("decision", "field_report", "emergency")
"""What must not be missed."""
_PLAIN = frozenset({str, int, bool, type(None)})


class RunJournal:
    """Numbers, writes and announces the records of a run.

    After a resume the records written past the checkpoint are still there: what the run does again
    is recognised by its identity and not written a second time, and a decision taken then is taken
    again. What came before a rollback is not repeated. Without a path the records are announced but
    not kept.
    """

    def __init__(self, run_id: str, path: Path | None, listener: Listener | None = None) -> None:
        self._run_id = run_id
        self._listener = listener
        self._past: list[dict[str, Any]] = []
        self._journal: Journal | None = None
        self._memory_seq = 0
        self._done: Counter[tuple[Any, ...]] = Counter()
        self._repeated: list[dict[str, Any]] = []
        self._repeated_until = 0
        if path is not None:
            self._past = list(read_journal(path))
            self._journal = Journal.open(path)
        self._rollbacks = [record for record in self._past if record["kind"] == "rollback"]
        self._met = {record.get("request") for record in self._past} - {None}

    @property
    def last_seq(self) -> int:
        """Number of the newest record."""
        return self._memory_seq if self._journal is None else self._journal.last_seq

    def resume(self, after_seq: int) -> list[dict[str, Any]]:
        """Prepare to repeat what was recorded after `after_seq`; return those records."""
        rollback = self.last_rollback
        start = after_seq if rollback is None else max(after_seq, rollback["seq"])
        again = [r for r in self._past if r["seq"] > start and r["kind"] in _ONCE]
        self._done = Counter(_identity(record) for record in again)
        self._repeated = again
        self._repeated_until = max((record["boundary"] for record in again), default=0)
        return [record for record in self._past if record["seq"] > after_seq]

    @property
    def emergency_rollbacks(self) -> list[dict[str, Any]]:
        """The rollbacks of guards and of emergencies that were told to the run, oldest first."""
        asked = ("operator", "hang")
        return [record for record in self._rollbacks if record["cause"] not in asked]

    @property
    def last_rollback(self) -> dict[str, Any] | None:
        """The newest rollback that the journal held when it was opened."""
        return next((r for r in reversed(self._past) if r["kind"] == "rollback"), None)

    @property
    def rollbacks(self) -> int:
        """How many rollbacks there were; the same boundaries come again after each."""
        return len(self._rollbacks)

    def told(self, kind: str) -> list[dict[str, Any]]:
        """Return the records of a kind that the journal held when it was opened, oldest first."""
        return [record for record in self._past if record["kind"] == kind]

    def repeats(self, boundary: int) -> bool:
        """Whether a resumed run had come to this boundary before."""
        return boundary <= self._repeated_until

    def met(self, request: int | None) -> bool:
        """Whether a record says that the operator's request of this number was met or refused."""
        return request in self._met

    def decisions(self, boundary: int, policy: str) -> list[dict[str, Any]]:
        """Return the decisions of `policy` recorded at a boundary that is being repeated."""
        return [r for r in self.repeated("decision", boundary) if r["policy"] == policy]

    def repeated(self, kind: str, boundary: int) -> list[dict[str, Any]]:
        """Return the records of a kind that a boundary had which is being repeated."""
        if not self.repeats(boundary):
            return []
        return [r for r in self._repeated if (r["kind"], r["boundary"]) == (kind, boundary)]

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
        if kind == "rollback":  # what comes now has not been before
            self._done.clear()
            self._repeated = []
            self._repeated_until = 0
        if self._journal is None:
            self._memory_seq += 1
            seq = self._memory_seq
        else:
            seq = self._journal.append(body)
        record = {"seq": seq, **body}
        if kind == "rollback":
            self._rollbacks.append(record)
        if body.get("request") is not None:
            self._met.add(body["request"])
        if self._listener is not None:
            self._listener(record)
        return record

    def announce_again(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Announce what must not be missed and may have been written without being announced."""
        for record in records:
            if record["kind"] in _LASTING and self._listener is not None:
                self._listener(record)

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
        record.get("request"),
        record.get("version"),
        record.get("update"),
        command.get("id"),
    )


def _finite(value: Any) -> Any:
    """Return JSON values in which what is not finite is None: not measured.

    A record holds some hundred values: what most of them are is asked by type, which is quick.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if kind is dict or isinstance(value, Mapping):
        return {
            str(key): item if type(item) in _PLAIN else _finite(item) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [item if type(item) in _PLAIN else _finite(item) for item in value]
    return value
