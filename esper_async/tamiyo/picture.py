"""The picture of one run: a fold over its journal records, and nothing else.

No clock and no I/O: the same records give the same picture, a record that was folded before
changes nothing, and a record that comes too early is refused as a gap, so that the caller can read
what is missing from the journal. Every item carries the `seq` of its record, so a reader that has
seen the picture up to some record needs only the items after it.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from esper_async.tamiyo.errors import MalformedRecordError
from esper_async.tamiyo.percentile import percentile
from esper_async.tamiyo.report_text import report_text
from esper_async.tamiyo.seed_picture import Json, SeedPicture

ENDED: Final = frozenset({"completed", "failed", "stopped"})
"""Run states that no further record leaves, except a resume."""

_PLACE = ("seq", "time", "boundary", "epoch", "step")
_NOTES = (
    "checkpoint", "rollback", "command_refused", "emergency", "paused", "resumed", "run_started",
    "run_ended", "early_stop", "policy_shadowed", "policy_activated", "policy_watched",
)  # fmt: skip


class Fold(Enum):
    """What became of a record."""

    APPLIED = "applied"
    REPEATED = "repeated"
    GAP = "gap"


def _place(record: Mapping[str, Any]) -> Json:
    return {name: record[name] for name in _PLACE}


class RunPicture:
    """One run as its journal tells it. Not thread-safe; belongs to one event loop or thread."""

    def __init__(self, run_id: str) -> None:
        self.id = run_id
        self.seq = 0
        self.name = run_id
        self.state = "queued"
        self.policy: str | None = None
        self.epoch = 0
        self.epochs: int | None = None
        self.created_at: float | None = None
        self.updated_at: float | None = None
        self.error: str | None = None
        self.replaced: tuple[str, float] | None = None  # why its policy was, and when
        self.start: Json = {}
        self.end: Json | None = None
        self.rows: list[Json] = []
        self.seeds: dict[str, SeedPicture] = {}
        self.decisions: list[Json] = []
        self.explanations: list[Json] = []
        self.field_reports: list[Json] = []
        self.notes: list[Json] = []
        self.checkpoints = 0
        self.faults: list[str] = []
        self._commands: set[str] = set()
        self._reports: set[str] = set()

    def fold(self, record: Mapping[str, Any]) -> Fold:
        """Take one record in and say what became of it.

        A record of a kind that is not known is passed over: a newer engine may write more.

        Raises:
            MalformedRecordError: the record lacks what its kind must carry. It counts as read
                and is listed in `faults`, so the run goes on being shown.
        """
        try:
            seq, kind = int(record["seq"]), record["kind"]
            if seq <= self.seq:
                return Fold.REPEATED
            if seq != self.seq + 1:
                return Fold.GAP
            self.seq = seq
            self.epoch = record["epoch"]
            self.updated_at = record["time"]
            take = _TAKE.get(kind)
            if take is not None:
                take(self, record)
            if kind in _NOTES:
                self._note(record)
        except (KeyError, TypeError, AttributeError) as error:
            text = f"record {record.get('seq')} ({record.get('kind')}) is malformed: {error!r}"
            self.faults.append(text)
            raise MalformedRecordError(f"run {self.id}: {text}") from error
        return Fold.APPLIED

    def _started(self, record: Mapping[str, Any]) -> None:
        self.name, self.policy, self.epochs = record["name"], record["policy"], record["epochs"]
        self.state = "running"
        if self.created_at is None:
            self.created_at = record["time"]
        self.start = {key: value for key, value in record.items() if key not in ("kind", "run")}

    def _boundary(self, record: Mapping[str, Any]) -> None:
        self._drop_from(record["boundary"])
        seeds = []
        for state in record["seeds"]:
            seed = self._seed(state["id"], state["site"])
            seed.observe(state, record["seq"])
            seeds.append(
                {name: state.get(name) for name in ("id", "stage", "alpha", "benefit_vs_twin")}
            )
        self.rows.append(
            {
                **_place(record),
                "metrics": dict(record["metrics"]),
                "boundary_ms": record.get("boundary_ms"),
                "overhead_ratio": record.get("overhead_ratio"),
                "shadow_cost_ratio": record.get("shadow_cost_ratio"),
                "samples_per_s": record.get("samples_per_s"),
                "parameters": record.get("parameters"),
                "learning_rate": record.get("learning_rate"),
                "seeds": seeds,
            }
        )

    def _drop_from(self, boundary: int) -> None:
        """A boundary that is told again replaces itself and what followed it."""
        while self.rows and self.rows[-1]["boundary"] >= boundary:
            self.rows.pop()

    def _decision(self, record: Mapping[str, Any]) -> None:
        command = record["command"]
        if command["id"] in self._commands:
            return
        self._commands.add(command["id"])
        told = ("policy", "policy_version", "probability", "alternatives", "risk")
        self.decisions.append(
            {
                **_place(record),
                "command": command,
                "reason": record["reason"],
                "moved": None,
                **{name: record.get(name) for name in told},
            }
        )

    def _explanation(self, record: Mapping[str, Any]) -> None:
        for decision in reversed(self.decisions):
            if decision["command"]["id"] == record["command_id"] and decision["moved"] is None:
                decision["moved"] = list(record["moved"])
                told = {"command_id": record["command_id"], "moved": decision["moved"]}
                self.explanations.append({**_place(record), **told})
                return

    def _transition(self, record: Mapping[str, Any]) -> None:
        seed = self._seed(record["seed"], record["site"])
        seed.blueprint = record.get("blueprint") or seed.blueprint
        seed.parameters = record.get("parameters") or seed.parameters
        seed.move(
            {
                **_place(record),
                "from_stage": record["from_stage"],
                "to_stage": record["to_stage"],
                "gate": record["gate"],
            }
        )

    def _field_report(self, record: Mapping[str, Any]) -> None:
        if record["report_id"] in self._reports:
            return
        self._reports.add(record["report_id"])
        body = {key: value for key, value in record.items() if key not in ("kind", "run")}
        if "operation" in body:  # what an older engine wrote has fewer fields
            body["text"] = report_text(body)
        self.field_reports.append(body)
        seed = self.seeds.get(str(record.get("seed")))
        if seed is not None:
            for name in ("clean_contribution", "dependence", "benefit_vs_twin"):
                if record.get(name) is not None:
                    setattr(seed, name, record[name])
            seed.last_seq = record["seq"]

    def _rollback(self, record: Mapping[str, Any]) -> None:
        for seed in self.seeds.values():
            seed.forget_after(record["to_boundary"])
            seed.last_seq = record["seq"]

    def _controller_replaced(self, record: Mapping[str, Any]) -> None:
        self.replaced = record["reason"], record["time"]

    def _paused(self, _record: Mapping[str, Any]) -> None:
        self.state = "paused"

    def _resumed(self, _record: Mapping[str, Any]) -> None:
        self.state, self.end, self.error = "running", None, None

    def _checkpoint(self, _record: Mapping[str, Any]) -> None:
        self.checkpoints += 1
        if self.notes and self.notes[-1]["kind"] == "checkpoint":
            self.notes.pop()

    def _ended(self, record: Mapping[str, Any]) -> None:
        if record["state"] not in ENDED:
            raise TypeError(f"a run cannot end as {record['state']!r}")
        self.state, self.error = record["state"], record.get("error")
        self.end = {key: value for key, value in record.items() if key not in ("kind", "run")}

    def _note(self, record: Mapping[str, Any]) -> None:
        skipped = ("run", "sites", "comparison", "test", "compute")
        self.notes.append({key: value for key, value in record.items() if key not in skipped})

    def _seed(self, seed_id: str, site: str) -> SeedPicture:
        if seed_id not in self.seeds:
            self.seeds[seed_id] = SeedPicture(seed_id, site)
        return self.seeds[seed_id]

    def boundary_percentiles(self) -> dict[str, float | None]:
        """Median and 99th percentile of the boundary's own time in ms, None before the first."""
        times = [row["boundary_ms"]["total"] for row in self.rows if row["boundary_ms"]]
        return {"p50": percentile(times, 0.5), "p99": percentile(times, 0.99)}

    def summary(self) -> Json:
        """The run as `GET /api/runs/{id}` answers it."""
        last = self.rows[-1] if self.rows else None
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "epoch": self.epoch,
            "epochs": self.epochs,
            "policy": self.policy,
            "metrics": dict(last["metrics"]) if last else {},
            "seeds": [seed.to_json() for seed in self.seeds.values()],
            "boundary_ms": self.boundary_percentiles(),
            "overhead_ratio": last["overhead_ratio"] if last else None,
            "created_at": self.created_at,
            "error": self.error,
            "primary_metric": self.start.get("primary_metric"),
        }

    def view(self, after_seq: int = 0) -> Json:
        """Everything about the run that record `after_seq` did not yet tell.

        Lists hold only items with a higher `seq`; a row replaces the rows of its own boundary and
        of later ones. An explanation's decision may have been told long before. Seeds come whole,
        with their lanes, if anything about them changed.
        """
        fresh = self._fresh
        return {
            "run": {**self.summary(), "seeds": None},
            "seq": self.seq,
            "after_seq": after_seq,
            "updated_at": self.updated_at,
            "start": self.start,
            "end": self.end,
            "rows": fresh(self.rows, after_seq),
            "seeds": [
                {**seed.to_json(), "parameters": seed.parameters, "lane": seed.lane}
                for seed in self.seeds.values()
                if seed.last_seq > after_seq
            ],
            "decisions": fresh(self.decisions, after_seq),
            "explanations": fresh(self.explanations, after_seq),
            "field_reports": fresh(self.field_reports, after_seq),
            "notes": fresh(self.notes, after_seq),
            "checkpoints": self.checkpoints,
            "faults": self.faults,
        }

    @staticmethod
    def _fresh(items: list[Json], after_seq: int) -> list[Json]:
        """The tail of `items` after a record; items are in order of `seq`."""
        start = len(items)
        while start and items[start - 1]["seq"] > after_seq:
            start -= 1
        return items[start:]


_TAKE: Final[dict[str, Callable[[RunPicture, Mapping[str, Any]], None]]] = {
    "run_started": RunPicture._started,
    "boundary": RunPicture._boundary,
    "decision": RunPicture._decision,
    "explanation": RunPicture._explanation,
    "transition": RunPicture._transition,
    "field_report": RunPicture._field_report,
    "rollback": RunPicture._rollback,
    "checkpoint": RunPicture._checkpoint,
    "controller_replaced": RunPicture._controller_replaced,
    "paused": RunPicture._paused,
    "resumed": RunPicture._resumed,
    "run_ended": RunPicture._ended,
}
