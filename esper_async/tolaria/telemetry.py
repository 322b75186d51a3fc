"""What the records of a run say in figures: telemetry points under their names.

What a record does not know is not sent: absent is not 0. Labels are bounded: stages, gates, parts,
causes and results are few, and seeds are those in the network or in the shadow now.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from esper_async.leyline.limits import LIMITS
from esper_async.tamiyo.risk.levels import RiskLevel
from esper_async.tolaria.emergency import LEVELS
from esper_async.tolaria.recovery import Cause

Record = Mapping[str, Any]
ACTIVE_STAGES = ("GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY")
_IN_MODEL = (*ACTIVE_STAGES, "FOSSILIZED")
_ASKERS = ("policy", "operator")
_QUANTITIES = ("clean_contribution", "dependence", "benefit_vs_twin")


@dataclass(frozen=True, slots=True)
class Point:
    """One figure: its name, value, unit (empty: a count) and labels."""

    name: str
    value: float
    unit: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def points_of(record: Record, *, loss_unit: str) -> list[Point]:
    """Return the figures of a record; `loss_unit` is "nats", or "loss" for the loss's own."""
    told = _TOLD.get(record["kind"])
    return [] if told is None else list(told(record, loss_unit))


def _beginning(_record: Record, _loss_unit: str) -> Iterator[Point]:
    """What has not happened yet is counted from 0: else its first time would look like no news."""
    yield Point("tolaria.lr.integrity_violations", 0.0)
    for part in LIMITS.boundary_budgets_ms:
        yield Point("tolaria.boundary.over_budget", 0.0, "", {"part": part})
    for cause in get_args(Cause):
        yield Point("tolaria.rollback.count", 0.0, "", {"cause": cause})
    for level in LEVELS:
        yield Point("tolaria.emergency.count", 0.0, "", {"level": level})
    for asker in _ASKERS:
        yield Point("kasmina.commands.refused", 0.0, "", {"reason": _impossible(asker)})


def _boundary(record: Record, loss_unit: str) -> Iterator[Point]:
    metrics, stages = record["metrics"], Counter(seed["stage"] for seed in record["seeds"])
    known = [
        ("tolaria.training.loss", metrics.get("training_loss"), loss_unit),
        ("tolaria.training.accuracy", metrics.get("training_accuracy"), "ratio"),
        ("tolaria.validation.loss", metrics.get("validation_loss"), loss_unit),
        ("tolaria.validation.accuracy", metrics.get("validation_accuracy"), "ratio"),
        ("tolaria.epoch.duration_ms", record.get("epoch_ms"), "ms"),
        ("tolaria.shadow.cost_ratio", record.get("shadow_cost_ratio"), "ratio"),
        ("tolaria.throughput.samples_per_s", record["samples_per_s"], "1/s"),
        ("tolaria.seeds.active", float(sum(stages[name] for name in ACTIVE_STAGES)), ""),
        ("kasmina.isolation.violations", record["isolation_violations"], ""),
    ]
    yield from (Point(name, value, unit) for name, value, unit in known if value is not None)
    for part, ms in record["boundary_ms"].items():
        yield Point("tolaria.boundary.duration_ms", ms, "ms", {"part": part})
        if ms > LIMITS.boundary_budgets_ms.get(part, math.inf):
            yield Point("tolaria.boundary.over_budget", 1.0, "", {"part": part})
    for stage in _IN_MODEL:
        yield Point("kasmina.seeds.active", float(stages[stage]), "", {"stage": stage})
    for seed in record["seeds"]:
        label = {"seed": seed["id"]}
        yield Point("kasmina.alpha", seed["alpha"], "", label)
        for name in _QUANTITIES:
            quantity = seed[name]
            if quantity is not None and quantity["mean"] is not None:
                yield Point(f"kasmina.{name}", quantity["mean"], quantity["unit"], label)


def _decision(record: Record, _loss_unit: str) -> Iterator[Point]:
    risk = record.get("risk")
    if risk is None:
        return  # an operator's
    if record.get("inference_ms") is not None:
        yield Point("tamiyo.inference.latency_ms", record["inference_ms"], "ms")
    action = record["command"]["operation"] or "NO_OP"
    labels = {"action": action, "reason": risk["reason_code"]}
    yield Point("tamiyo.decision.total", 1.0, "", labels)
    yield Point("tamiyo.risk.score", risk["score"], "ratio")
    yield Point("tamiyo.risk.level", float(RiskLevel[risk["level"]]))
    yield Point("tamiyo.conservative_mode", float(risk["conservative"]))
    if "pauses_left" in risk:  # a record of an earlier version, told again, has none
        yield Point("tamiyo.pause.quota_remaining", float(risk["pauses_left"]))
    labels = {"policy": record["policy"], "version": record["policy_version"]}
    yield Point("tamiyo.policy.version", 1.0, "", labels)


def _transition(record: Record, _loss_unit: str) -> Iterator[Point]:
    gate, target = record["gate"], record["to_stage"]
    labels = {"from": record["from_stage"], "to": target}
    yield Point("kasmina.stage.transitions", 1.0, "", labels)
    if record["kernel_ms"] is not None:
        yield _fetched(record["kernel_ms"], "made")
    if gate is None or (gate["passed"] and target == "CULLED"):
        return  # a cull on command is explained in a gate's place, and no gate has judged
    result = "passed" if gate["passed"] else "failed"
    yield Point("kasmina.gate.result", 1.0, "", {"gate": gate["name"], "result": result})


def _kernel_swap(record: Record, _loss_unit: str) -> Iterator[Point]:
    if record["fetch_ms"] is not None:
        yield _fetched(record["fetch_ms"], "compiled")


def _fetched(ms: float, source: str) -> Point:
    return Point("kasmina.kernel.fetch_latency_ms", ms, "ms", {"source": source})


def _rollback(record: Record, _loss_unit: str) -> Iterator[Point]:
    yield Point("tolaria.rollback.count", 1.0, "", {"cause": record["cause"]})


def _rolled_back(record: Record, _loss_unit: str) -> Iterator[Point]:
    yield Point("tolaria.rollback.duration_ms", record["ms"], "ms", {"source": record["source"]})


def _checkpoint(record: Record, _loss_unit: str) -> Iterator[Point]:
    yield Point("tolaria.checkpoint.duration_ms", record["ms"], "ms")
    yield Point("tolaria.checkpoint.copy_ms", record["copy_ms"], "ms")
    yield Point("tolaria.checkpoint.size_bytes", float(record["bytes"]), "bytes")
    yield Point("tolaria.checkpoint.memory_bytes", float(record["memory_bytes"]), "bytes")


def _compilation(record: Record, _loss_unit: str) -> Iterator[Point]:
    yield Point("tolaria.recompiles", float(record["recompiles"]))
    yield Point("tolaria.compile.duration_ms", record["ms"], "ms")
    yield Point("tolaria.compile.given_up", float(len(record["given_up"])))


def _rate_violation(_record: Record, _loss_unit: str) -> Iterator[Point]:
    yield Point("tolaria.lr.integrity_violations", 1.0)


def _emergency(record: Record, _loss_unit: str) -> Iterator[Point]:
    yield Point("tolaria.emergency.count", 1.0, "", {"level": record["level"]})


def _command_refused(record: Record, _loss_unit: str) -> Iterator[Point]:
    asker = "policy" if record.get("request") is None else "operator"
    yield Point("kasmina.commands.refused", 1.0, "", {"reason": _impossible(asker)})


def _impossible(asker: str) -> str:
    return f"{asker}_asked_the_impossible"


_TOLD: dict[str, Callable[[Record, str], Iterator[Point]]] = {
    "run_started": _beginning,
    "resumed": _beginning,
    "boundary": _boundary,
    "decision": _decision,
    "transition": _transition,
    "kernel_swap": _kernel_swap,
    "rollback": _rollback,
    "rolled_back": _rolled_back,
    "checkpoint": _checkpoint,
    "compilation": _compilation,
    "rate_violation": _rate_violation,
    "emergency": _emergency,
    "command_refused": _command_refused,
}
