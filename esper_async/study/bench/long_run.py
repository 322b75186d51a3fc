"""The records of a run that grows for hours: a boundary every five seconds, a tournament in five
minutes. Each is told as a training process would, in the order of its journal.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

RUN = "long"
BOUNDARY_S = 5.0
BOUNDARIES_AN_HOUR = int(3_600 / BOUNDARY_S)
_EVERY, _CANDIDATES, _TRAINS, _BLENDS, _JUDGED = 60, 6, 12, 18, 30
_SITES = tuple(f"features.{number}" for number in range(4))
_QUANTITIES = ("clean_contribution", "dependence", "benefit_vs_twin")
_KEEPS = 4
"""As many seeds as a run may keep; what comes after them ends with its trial."""
Record = dict[str, Any]


def long_run(began: float) -> Iterator[list[Record]]:
    """Yield, boundary by boundary and without end, the records of a run that began then (Unix)."""
    numbers = itertools.count(1)
    seeds: dict[str, Record] = {}

    def told(kind: str, boundary: int, **more: Any) -> Record:
        return {
            "seq": next(numbers), "kind": kind, "time": began + BOUNDARY_S * boundary, "run": RUN,
            "boundary": boundary, "epoch": boundary, "step": 40 * boundary, **more,
        }  # fmt: skip

    def moved(boundary: int, seed: Record, stage: str) -> Record:
        before, seed["stage"] = seed["stage"], stage
        gate = {"name": "G2", "passed": True, "reason": "it holds", "boundary": boundary}
        return told(
            "transition", boundary, seed=seed["id"], site=seed["site"],
            blueprint=seed["blueprint"], from_stage=before, to_stage=stage,
            gate={**gate, "numbers": {"margin": -0.02}},
        )  # fmt: skip

    yield [
        told(
            "run_started", 0, name="a long run", policy="heuristic", epochs=100_000, seed=7,
            device="cpu", threads=1, deterministic=True, host_parameters=1_914,
            sites=[{"site": site, "kind": "spatial", "shape": [16, 4, 4]} for site in _SITES],
            primary_metric="validation_accuracy", resumable="bitwise",
        )
    ]  # fmt: skip
    for boundary in itertools.count(1):
        tournament, age = divmod(boundary, _EVERY)
        records = []
        if age == 0:
            for number in range(_CANDIDATES):
                seed = _planted(f"s{tournament * _CANDIDATES + number}", number)
                seeds[seed["id"]] = seed
                records.append(moved(boundary, seed, "GERMINATED"))
        records += [
            moved(boundary, seed, stage)
            for seed in list(seeds.values())
            if (stage := _next_stage(seed, age, kept=tournament <= _KEEPS)) is not None
        ]
        records.append(_state(told, boundary, seeds))
        for gone in [name for name, seed in seeds.items() if seed["stage"] == "EMBARGOED"]:
            del seeds[gone]
        command: Record = {
            "id": f"c{boundary}",
            "type": "NO_OP",
            "operation": None,
            "candidates": [],
        }
        records.append(
            told(
                "decision", boundary, command={**command, "target": None}, policy="heuristic",
                reason="a trial is running", policy_version="heuristic-3", probability=1.0,
                alternatives=[],
            )
        )  # fmt: skip
        if age == _JUDGED:
            records.append(_report(told, boundary, tournament))
        yield records


def _planted(name: str, number: int) -> Record:
    return {
        "id": name, "site": _SITES[number % len(_SITES)], "stage": "DORMANT",
        "blueprint": f"BP{9 + number:03d}", "kernel": f"kernel-{number}-9c1e", "alpha": 0.0,
        "age_epochs": 0, "gates": [], **dict.fromkeys(_QUANTITIES),
    }  # fmt: skip


def _next_stage(seed: Record, age: int, *, kept: bool) -> str | None:
    """Where a seed goes at this age of its tournament; the first candidate wins."""
    wins = int(seed["id"][1:]) % _CANDIDATES == 0
    stage = seed["stage"]
    if stage == "GERMINATED" and age == 1:
        return "TRAINING"
    if stage == "TRAINING" and age == _TRAINS:
        return "BLENDING" if wins else "CULLED"
    if stage == "BLENDING" and age == _BLENDS:
        return "PROBATIONARY"
    if stage == "PROBATIONARY" and age == _JUDGED:
        return "FOSSILIZED" if kept else "CULLED"
    return "EMBARGOED" if stage == "CULLED" else None


def _state(told: Any, boundary: int, seeds: dict[str, Record]) -> Record:
    loss = 0.2 + math.exp(-boundary / 500) + 0.01 * math.sin(boundary)
    mean = {"n": 360, "unit": "nats", "paired_by": "sample", "estimated": False}
    for seed in seeds.values():
        seed["age_epochs"] += 1
        if seed["stage"] == "BLENDING":
            seed["alpha"] = min(1.0, seed["alpha"] + 0.2)
        if seed["stage"] == "PROBATIONARY":
            seed["benefit_vs_twin"] = {"mean": 0.02, "low": 0.01, "high": 0.03, **mean}
    record: Record = told(
        "boundary", boundary,
        metrics={
            "training_loss": loss - 0.03, "validation_loss": loss, "twin_loss": loss + 0.01,
            "validation_accuracy": 1 - loss / 2, "averaged_loss": loss - 0.01,
        },
        boundary_ms={"assembly": 1.1, "decision": 2.2, "apply": 0.6, "guard": 0.3, "total": 4.2},
        overhead_ratio=1.08, shadow_cost_ratio=0.2, samples_per_s=5_200.0, parameters=2_570,
        learning_rate=3e-3, seeds=[dict(seed) for seed in seeds.values()],
    )  # fmt: skip
    return record


def _report(told: Any, boundary: int, tournament: int) -> Record:
    record: Record = told(
        "field_report", boundary, report_id=f"r{tournament}", command_id=f"c{boundary - 30}",
        seed=f"s{tournament * _CANDIDATES}", blueprint="BP009", site=_SITES[0],
        outcome="SUCCESS" if tournament <= _KEEPS else "NEUTRAL", window=3, losers=[],
        observed_change={"validation_loss": -0.01}, **dict.fromkeys(_QUANTITIES),
    )  # fmt: skip
    return record
