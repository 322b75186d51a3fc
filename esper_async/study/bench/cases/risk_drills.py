"""Does the risk engine meet trouble with the right level, action and reason, at once?

Each drill lets something happen to a run that may act on its clock and machine. The same is then
done to a deterministic run, whose weights must be those of one that nothing happened to.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from esper_async.kasmina.legal import MemoryStore
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Candidate
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    wants,
)
from esper_async.study.bench.hosts import ConvHost, batches
from esper_async.study.bench.planting import PlantOnce
from esper_async.tamiyo.command import Decision
from esper_async.tamiyo.policies import Policy
from esper_async.tamiyo.policies.heuristic import HeuristicPolicy
from esper_async.tamiyo.view import MachineView, View
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.task import Task

AT = 4
"""The boundary of the trouble: the first at which the heuristic would act."""
_EPOCHS = 9
_LATE_S, _QUICK_MS = 0.3, 1.0
_GROWTH = GrowthOptions(dwell_steps=8, ramp_boundaries=1, window_boundaries=1)
_Options = RunOptions
Told = list[dict[str, Any]]


class Drilled(ConvHost):
    """A host whose output can be made not finite, once."""

    def __init__(self) -> None:
        super().__init__()
        self.poisoned = False

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 1, 8, 8) to logits (N, 10)."""
        logits = super().forward(images)
        if self.poisoned and self.training:
            self.poisoned = False
            return logits * math.nan
        return logits


class Slow:
    """The heuristic, which takes its time at one boundary."""

    name: ClassVar[str] = "slow"
    version: ClassVar[str] = "1"

    def __init__(self) -> None:
        self._inner = HeuristicPolicy(0)

    def decide(self, view: View) -> Decision:
        """Decide as the heuristic, late."""
        if view.boundary == AT:
            time.sleep(_LATE_S)
        return self._inner.decide(view)

    def state_dict(self) -> dict[str, Any]:
        """Return the random stream's state."""
        return self._inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._inner.load_state_dict(state)


@dataclass(slots=True)
class Stage:
    """What a drill can take hold of: the host, the memory that is available, and the bus."""

    host: Drilled
    memory: float = 0.9
    backlog: float = 0.0


@dataclass(frozen=True, slots=True)
class Drill:
    """One trouble: how it is made, and what must be said and done about it.

    `begins` is called once the boundary before `AT` has been told, `ends` at the one after it.
    """

    policy: Callable[[], Policy]
    begins: Callable[[Stage], None]
    ends: Callable[[Stage], None]
    found: Callable[[Told], list[str]]
    growth: GrowthOptions = _GROWTH
    blueprints: tuple[str, ...] = ("BP003", "BP009")


def measure(effort: Effort) -> list[Row]:
    """Hold every drill where the engine may act, then where it may not."""
    rows = []
    for name, drill in DRILLS.items():
        if wants(name):
            state, told, stage = run(drill, deterministic=False)
            wrong = [*_healthy(state, stage), *drill.found(told)]
            note = "; ".join(wrong) or "the right level, action and reason, within one boundary"
            rows.append(judged(name, len(wrong), "faults", Bar("at most", 0), note=note))
    if wants(UNCHANGED):
        rows.append(_unchanged())
    return rows


def _unchanged() -> Row:
    """Compare the weights of deterministic runs with and without troubles of the machine."""
    without = replace(DRILLS[MEMORY], begins=_nothing)
    quiet = run(without, deterministic=True)[2].host.state_dict()
    differing = 0
    for name in _OUTSIDE:
        troubled = run(DRILLS[name], deterministic=True)[2].host.state_dict()
        differing += sum(not torch.equal(troubled[key], quiet[key]) for key in quiet)
    note = f"of {len(quiet)} tensors, under {', '.join(_OUTSIDE)}"
    return judged(UNCHANGED, differing, "tensors", Bar("at most", 0), note=note)


def run(drill: Drill, *, deterministic: bool) -> tuple[str, Told, Stage]:
    """Train once through a drill; return how the run ended, what it told, and what is left."""
    torch.manual_seed(0)
    stage = Stage(Drilled())
    told: Told = []

    def listen(record: Mapping[str, Any]) -> None:
        told.append(dict(record))
        if record["kind"] == "boundary" and record["boundary"] == AT - 1:
            drill.begins(stage)
        if record["kind"] == "boundary" and record["boundary"] == AT + 1:
            drill.ends(stage)

    def machine(_device: object, _decision_ms: float | None) -> MachineView:
        # how busy this machine is now is no part of the drill
        return MachineView(memory_available=stage.memory, decision_ms=_QUICK_MS)

    policy = drill.policy()
    with replaced("esper_async.tolaria.engine.machine_view", machine):
        engine = Engine(
            Task(
                model=stage.host,
                train_loader=batches(4),
                validation_loader=batches(1, seed=1),
                loss=nn.functional.cross_entropy,
            ),
            RunOptions(
                epochs=_EPOCHS, policy=policy.name, deterministic=deterministic, threads=1,
                growth=drill.growth,
            ),
            certificates=MemoryStore(),
            blueprints=list(drill.blueprints),
            policy=policy,
            listener=listen,
            bus_backlog=lambda: stage.backlog,
        )  # fmt: skip
        try:
            return engine.run().state, told, stage
        except Exception as error:  # noqa: BLE001 - a run that ends so is the finding
            return f"{type(error).__name__}: {error}", told, stage
        finally:
            engine.close()


def _healthy(state: str, stage: Stage) -> list[str]:
    wrong = [] if state == "completed" else [f"the run ended as {state}"]
    sound = all(bool(torch.isfinite(t).all()) for t in stage.host.state_dict().values())
    return wrong if sound else [*wrong, "its weights are not finite"]


def _expect(level: str, reasons: tuple[str, ...], operations: tuple[str | None, ...]) -> Any:
    """Return a look at the decision of the trouble's boundary."""

    def look(told: Told) -> list[str]:
        at = [r for r in told if r["kind"] == "decision" and r["boundary"] == AT]
        if not at:
            return [f"nothing was decided at boundary {AT}"]
        risk, operation = at[-1]["risk"], at[-1]["command"]["operation"]
        wrong = [] if risk["level"] == level else [f"level {risk['level']}, not {level}"]
        if risk["reason_code"] not in reasons:
            wrong.append(f"reason {risk['reason_code']}, not {' or '.join(reasons)}")
        if operation not in operations:
            wrong.append(f"operation {operation}, not {' or '.join(map(str, operations))}")
        return wrong

    return look


def _gently(told: Told) -> list[str]:
    wrong: list[str] = _expect("YELLOW", ("bus_stalled",), ("GERMINATE",))(told)
    at = [r for r in told if r["kind"] == "decision" and r["boundary"] == AT]
    if not at or not at[-1]["risk"]["mitigations"]:
        wrong.append("nothing was mitigated")
    return wrong


def _went_back(told: Told) -> list[str]:
    alarms = [r for r in told if r["kind"] == "emergency" and "nan" in r["reason"]]
    back = [r for r in told if r["kind"] == "rollback"]
    wrong = [] if alarms else ["no emergency says that the loss is nan"]
    if alarms and (alarms[0]["level"], alarms[0]["boundary"]) != ("SEVERE", AT - 1):
        wrong.append(f"{alarms[0]['level']} at boundary {alarms[0]['boundary']}")
    return wrong if back else [*wrong, "the run did not go back"]


def _nothing(_stage: Stage) -> None:
    return


def _poison(stage: Stage) -> None:
    stage.host.poisoned = True


def _take_memory(stage: Stage) -> None:
    stage.memory = 0.01


def _give_memory(stage: Stage) -> None:
    stage.memory = 0.9


def _stall(stage: Stage) -> None:
    stage.backlog = 1.0


def _flow(stage: Stage) -> None:
    stage.backlog = 0.0


def _heuristic() -> Policy:
    return HeuristicPolicy(0)


def _exploding() -> Policy:
    return PlantOnce(Candidate("second.2", "BP043"), boundary=AT - 1)


NAN, EXPLODING = "loss that is not a number", "exploding blueprint"
MEMORY, SLOW, BUS = "memory pressure", "slow inference", "stalled bus"
UNCHANGED = "deterministic: weights changed by troubles of the machine"
_OUTSIDE = (MEMORY, SLOW, BUS)
"""Troubles of the machine: a deterministic run must not feel them."""
DRILLS = {
    NAN: Drill(_heuristic, _poison, _nothing, _went_back),
    EXPLODING: Drill(
        _exploding,
        _nothing,
        _nothing,
        _expect("RED", ("gradient_unstable", "gradient_not_finite"), ("PAUSE",)),
        growth=replace(_GROWTH, drill=True, tiers=("production", "adversarial")),
        blueprints=("BP043",),
    ),
    MEMORY: Drill(
        _heuristic, _take_memory, _give_memory, _expect("RED", ("memory_pressure",), (None,))
    ),
    SLOW: Drill(Slow, _nothing, _nothing, _expect("ORANGE", ("missed_deadline",), (None,))),
    BUS: Drill(_heuristic, _stall, _flow, _gently),
}


def _blind(view: View, *_given: Any) -> list[Any]:
    return []


def _never_deterministic(**given: Any) -> RunOptions:
    return _Options(**{**given, "deterministic": False})


def _look_away(self: Any, loss: float) -> None:
    return


BENCHMARK = Benchmark(
    name="risk-drills",
    question="does the risk engine meet trouble with the right level, action and reason?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "sees nothing",
            "no signal is measured",
            lambda: replaced("esper_async.tamiyo.risk.engine.measure", _blind),
            fails=(EXPLODING, MEMORY, SLOW, BUS),
        ),
        Mutant(
            "looks away from the loss",
            "the guard takes every loss for a sound one",
            lambda: replaced("esper_async.tolaria.loss_guard.LossGuard.look", _look_away),
            fails=(NAN,),
        ),
        Mutant(
            "a deterministic run taken for any other",
            "clock and machine reach its decisions",
            lambda: replaced(f"{__name__}.RunOptions", _never_deterministic),
            fails=(UNCHANGED,),
        ),
    ),
)
