"""How a run decides: in time or not, by a sound policy or not, and the run goes on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from esper_async.kasmina.options import GrowthOptions
from esper_async.tamiyo.command import Decision
from esper_async.tamiyo.policies.heuristic import HeuristicPolicy
from esper_async.tamiyo.view import MachineView, View
from esper_async.tolaria import deciding
from esper_async.tolaria import engine as engine_module
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.outcome import Outcome
from esper_async.tolaria.task import Task

GROWTH = GrowthOptions(dwell_steps=8, ramp_boundaries=1, window_boundaries=1)
LONG_S = 30.0


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be memory, whatever else the machine is at."""
    monkeypatch.setattr("esper_async.tolaria.hardware.available_bytes", lambda: 10**15)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.second(torch.relu(self.first(x))))
        logits: torch.Tensor = self.last(hidden)
        return logits


def task() -> Task:
    torch.manual_seed(1)
    data = [(torch.randn(16, 8), torch.randint(0, 3, (16,))) for _ in range(4)]
    loss = nn.functional.cross_entropy
    return Task(model=Net(), train_loader=data, validation_loader=data[:2], loss=loss)


class Faulty:
    """The heuristic, which hangs or raises at some boundaries, so many times."""

    name = "faulty"
    version = "1"

    def __init__(self, *, hang: dict[int, int] | None = None, fail: set[int] | None = None) -> None:
        self.inner = HeuristicPolicy(0)
        self.hang = dict(hang or {})
        self.fail = fail or set()
        self.gate = threading.Event()
        self.conservative: dict[int, bool] = {}

    def decide(self, view: View) -> Decision:
        self.conservative[view.boundary] = view.conservative
        if view.boundary in self.fail:
            raise RuntimeError("broken")
        if self.hang.get(view.boundary, 0) > 0:
            self.hang[view.boundary] -= 1
            self.gate.wait(LONG_S)
        return self.inner.decide(view)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)


@contextmanager
def engine(
    policy: Any, *, deterministic: bool, epochs: int = 10, folder: Path | None = None
) -> Iterator[tuple[Engine, list[dict[str, Any]]]]:
    told: list[dict[str, Any]] = []
    named = isinstance(policy, str)
    options = RunOptions(
        epochs=epochs,
        deterministic=deterministic,
        growth=GROWTH,
        policy=policy if named else "faulty",
        threads=1,
    )
    made = Engine(
        task(),
        options,
        folder=folder,
        listener=lambda record: told.append(dict(record)),
        blueprints=["BP002", "BP003"],
        policy=None if named else policy,
    )
    try:
        yield made, told
    finally:
        made.close()


def patience(monkeypatch: pytest.MonkeyPatch, **limits: float) -> None:
    """Let every run of a test wait so long for its decisions."""
    monkeypatch.setattr(engine_module, "Decider", partial(deciding.Decider, **limits))


def of(told: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record for record in told if record["kind"] == kind]


def weights(outcome: Outcome) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in outcome.grower.model.state_dict().values()]


def test_a_run_decides_the_same_on_the_controllers_thread_in_every_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quiet = MachineView(memory_available=0.9, decision_ms=1.0)
    monkeypatch.setattr(engine_module, "machine_view", lambda *_: quiet)
    patience(monkeypatch, deadline_s=LONG_S)
    decisions = []
    for deterministic in (True, False):
        with engine(HeuristicPolicy(0), deterministic=deterministic) as (run, told):
            run.run()
        decisions.append([record["command"] for record in of(told, "decision")])
    assert decisions[0] == decisions[1]
    assert any(command["operation"] == "GERMINATE" for command in decisions[0])


def test_a_policy_that_raises_decides_nothing_and_the_run_goes_on() -> None:
    with engine(Faulty(fail={5}), deterministic=True) as (run, told):
        outcome = run.run()
    assert outcome.state == "completed"
    at = {record["boundary"]: record for record in of(told, "decision")}
    assert at[5]["command"]["operation"] is None
    assert "RuntimeError: broken" in at[5]["reason"]
    assert at[4]["command"]["operation"] == "GERMINATE"
    assert at[5]["inference_ms"] is None
    assert all(record["inference_ms"] > 0 for boundary, record in at.items() if boundary != 5)
    alarms = of(told, "emergency")
    assert [(alarm["level"], alarm["boundary"]) for alarm in alarms] == [("MINOR", 5)]


def test_one_that_raises_again_and_again_is_replaced() -> None:
    with engine(Faulty(fail=set(range(5, 50))), deterministic=True) as (run, told):
        assert run.run().state == "completed"
    (replaced,) = of(told, "controller_replaced")
    assert replaced["boundary"] == 7
    assert {r["policy"] for r in of(told, "decision") if r["boundary"] > 7} == {"static"}


def test_a_late_decision_is_void_where_the_clock_may_act(monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch, deadline_s=1.5, hang_s=LONG_S)
    policy = Faulty(hang={4: 1})
    releases = {6: policy.gate}
    with engine(policy, deterministic=False, epochs=16) as (run, told):
        original = run._chronicle.decision

        def note(*args: Any, **fields: Any) -> None:
            original(*args, **fields)
            gate = releases.pop(run._boundary, None)
            if gate is not None:
                gate.set()
                pending = run._decider._controller._pending
                assert pending is not None
                assert pending.answered.wait(LONG_S)

        monkeypatch.setattr(run._chronicle, "decision", note)
        monkeypatch.setattr(deciding, "MOST_IN_A_ROW", 10)
        assert run.run().state == "completed"
    at = {record["boundary"]: record for record in of(told, "decision")}
    assert [at[boundary]["command"]["operation"] for boundary in (4, 5, 6)] == [None] * 3
    assert "tournament of" in at[7]["reason"]  # it was asked anew, whatever the risk engine says
    assert [record["used"] for record in of(told, "decision_late")] == [False] * 3
    assert at[4]["inference_ms"] > 1400.0  # it took longer than it was waited for
    shown = policy.conservative
    assert shown[7] and not any(shown[boundary] for boundary in (1, 2, 3, 4) if boundary in shown)


def test_a_stuck_controller_is_replaced_by_static_with_an_alert(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience(monkeypatch, deadline_s=0.02, hang_s=LONG_S)
    policy = Faulty(hang={4: 1})
    with engine(policy, deterministic=False) as (run, told):
        assert run.run().state == "completed"
    policy.gate.set()
    (replaced,) = of(told, "controller_replaced")
    assert replaced["by"] == "static"
    assert not replaced["bitwise"]
    assert any("replaced by static" in alarm["reason"] for alarm in of(told, "emergency"))


def test_a_deterministic_run_goes_back_once_from_a_decision_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience(monkeypatch, hang_s=0.3)
    policy = Faulty(hang={6: 1})
    with engine(policy, deterministic=True) as (run, told):
        disturbed = run.run()
    policy.gate.set()
    with engine(Faulty(), deterministic=True) as (run, _):
        quiet = run.run()
    (rollback,) = of(told, "rollback")
    assert (rollback["cause"], rollback["to_boundary"]) == ("hang", 5)
    assert not of(told, "controller_replaced")
    assert all(map(torch.equal, weights(disturbed), weights(quiet)))
    assert not any(policy.conservative.values())


def test_one_that_hangs_twice_at_a_boundary_goes_on_under_static_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience(monkeypatch, hang_s=0.2)
    policy = Faulty(hang={6: 2})
    with engine(policy, deterministic=True) as (run, told):
        assert run.run().state == "completed"
    policy.gate.set()
    (replaced,) = of(told, "controller_replaced")
    assert replaced["boundary"] == 6
    assert not replaced["bitwise"]


@pytest.mark.parametrize("alarm", ["memory", "slow"])
def test_what_the_risk_engine_sees_reaches_no_weight_of_a_deterministic_run(
    monkeypatch: pytest.MonkeyPatch, alarm: str
) -> None:
    outcomes = []
    for troubled in (False, True):
        with engine(HeuristicPolicy(0), deterministic=True) as (run, told):
            if troubled and alarm == "memory":
                monkeypatch.setattr("esper_async.tolaria.hardware.available_bytes", lambda: 1)
            if troubled and alarm == "slow":
                monkeypatch.setattr(run._decider, "_bus_backlog", lambda: 1.0)
            outcomes.append(run.run())
        assert {record["risk"]["acts"] for record in of(told, "decision")} == {False}
    assert all(map(torch.equal, weights(outcomes[0]), weights(outcomes[1])))


def test_memory_pressure_refuses_and_pauses_where_it_may_act(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience(monkeypatch, deadline_s=LONG_S)
    monkeypatch.setattr("esper_async.tolaria.hardware.available_bytes", lambda: 1)
    with engine(HeuristicPolicy(0), deterministic=False) as (run, told):
        assert run.run().state == "completed"
    asked = [r for r in of(told, "decision") if "refused" in r["risk"]["mitigations"]]
    assert asked
    assert {r["command"]["operation"] for r in asked} == {None}
    assert {r["risk"]["reason_code"] for r in asked} == {"memory_pressure"}
    assert not of(told, "transition")


def test_paused_seeds_go_on_once_the_pressure_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch, deadline_s=LONG_S)
    free = {"share": 0.9}
    monkeypatch.setattr(
        engine_module, "machine_view", lambda *_: MachineView(free["share"], decision_ms=1.0)
    )
    with engine(HeuristicPolicy(0), deterministic=False, epochs=14) as (run, told):
        original = run._chronicle.decision

        def note(*args: Any, **fields: Any) -> None:
            original(*args, **fields)
            if run._boundary == 4:
                free["share"] = 0.01
            if run._boundary == 5:
                free["share"] = 0.9

        monkeypatch.setattr(run._chronicle, "decision", note)
        assert run.run().state == "completed"
    operations = [record["command"]["operation"] for record in of(told, "decision")]
    assert operations[3:8] == ["GERMINATE", "PAUSE", None, None, "RESUME"]
