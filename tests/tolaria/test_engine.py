"""The engine: journal and replay, steering, guards, and what a run leaves behind."""

import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Candidate
from esper_async.kasmina.user_code import UserCodeError
from esper_async.leyline import SeedLifecycleStage, StateForm, SystemStatePacket
from esper_async.runtime.journal import read_journal
from esper_async.tamiyo.command import Decision, Germinate
from esper_async.tolaria.control import Steer
from esper_async.tolaria.engine import Engine, Outcome
from esper_async.tolaria.messages import decision_of, field_report_of, system_state_of
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.task import Task, TaskError
from esper_async.tolaria.training import LossError
from tests.growth_hosts import differing, make_batches
from tests.tolaria.growth_tasks import BLUEPRINTS, QUICK, listed, regression, shuffled


class Script:
    """A control that steers at given steps."""

    def __init__(self, steers: dict[int, Sequence[Steer]] | None = None) -> None:
        self.steers = {step: list(each) for step, each in (steers or {}).items()}
        self.step = 0
        self.waits = 0

    def poll(self) -> Sequence[Steer]:
        return [s for step in list(self.steers) if step <= self.step for s in self.steers.pop(step)]

    def heartbeat(self, step: int, **progress: Any) -> None:
        self.step = step

    def wait(self, timeout_s: float) -> None:
        self.waits += 1
        if self.waits == 3:
            self.steers[self.step] = [Steer("resume")]


class Spoiler(Script):
    """Puts a NaN into the twin as soon as there is one."""

    engine: Engine | None = None
    spoilt = False

    def poll(self) -> Sequence[Steer]:
        executor = None if self.engine is None else self.engine.grower.executor
        if executor is not None and executor.trial is not None and not self.spoilt:
            self.spoilt = True
            with torch.no_grad():
                next(executor.trial.twin.model.parameters()).fill_(float("nan"))
        return super().poll()


def options(**changes: Any) -> RunOptions:
    growth = GrowthOptions(**{**QUICK, **changes.pop("growth", {})})
    settings: dict[str, Any] = {"epochs": 12, "seed": 3, "threads": 1}
    return RunOptions(**{**settings, **changes}, growth=growth)


def run(
    task: Task, folder: Path | None = None, control: Any = None, **changes: Any
) -> tuple[Outcome, list[dict[str, Any]]]:
    records: list[dict[str, Any]] = []
    engine = Engine(
        task,
        options(**changes),
        folder=folder,
        control=control,
        listener=lambda record: records.append(dict(record)),
        blueprints=BLUEPRINTS,
    )
    with closing(engine):
        return engine.run(), records


def weights(outcome: Outcome) -> dict[str, Any]:
    return dict(outcome.grower.model.state_dict())


def kinds(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record for record in records if record["kind"] == kind]


def test_a_folder_makes_no_difference_to_the_weights(tmp_path: Path) -> None:
    kept, _ = run(shuffled(), tmp_path)
    unkept, _ = run(shuffled())
    assert differing(weights(kept), weights(unkept)) == []


def test_the_journal_holds_what_was_announced_and_is_json(tmp_path: Path) -> None:
    _, records = run(listed(), tmp_path)
    journaled = list(read_journal(tmp_path / "journal.jsonl"))
    assert journaled == json.loads(json.dumps(records))
    assert [record["seq"] for record in journaled] == list(range(1, len(journaled) + 1))
    boundaries = kinds(records, "boundary")
    assert [record["boundary"] for record in boundaries] == list(range(1, 13))
    assert boundaries[0]["seeds"] == []
    seed = kinds(records, "boundary")[4]["seeds"][0]
    assert {"id", "site", "stage", "alpha", "gates", "benefit_vs_twin"} <= set(seed)


def test_the_first_record_names_the_task_and_its_primary_metric_by_its_key() -> None:
    _, records = run(listed(name="spirals"), policy="static", epochs=1)
    (started,), (boundary,) = kinds(records, "run_started"), kinds(records, "boundary")
    assert (started["task"], started["maximize"]) == ("spirals", True)
    assert started["primary_metric"] in boundary["metrics"]


@pytest.mark.parametrize("cut", [5, 11, 12])
def test_a_drained_run_still_comes_to_the_boundary_at_its_end(tmp_path: Path, cut: int) -> None:
    settings: dict[str, Any] = {"boundary_every": 5, "epochs": 3, "policy": "static"}
    whole, _ = run(shuffled(), **settings)
    run(shuffled(), tmp_path, Script({cut: [Steer("drain")]}), **settings)
    rest, _ = run(shuffled(), tmp_path, **settings)
    assert [entry["step"] for entry in rest.history] == [5, 10, 12]
    assert differing(weights(whole), weights(rest)) == []


@pytest.mark.parametrize("make", [listed, shuffled])
@pytest.mark.parametrize("every", [1, 3])
def test_a_drained_run_goes_on_bitwise_from_the_middle_of_an_epoch(
    tmp_path: Path, make: Any, every: int
) -> None:
    whole, told = run(make(), tmp_path / "whole")
    for step in (3, 18, 30, 40):
        drained, _ = run(
            make(), tmp_path / "cut", Script({step: [Steer("drain")]}), checkpoint_every=every
        )
        assert drained.state == "drained"
    rest, _ = run(make(), tmp_path / "cut", checkpoint_every=every)

    assert rest.state == "completed"
    assert differing(weights(whole), weights(rest)) == []
    assert [e["validation_loss"] for e in whole.history] == [
        e["validation_loss"] for e in rest.history
    ]
    again = list(read_journal(tmp_path / "cut" / "journal.jsonl"))
    for kind in ("boundary", "decision", "transition", "field_report"):
        assert len(kinds(again, kind)) == len(kinds(told, kind)), kind
    resumed = kinds(again, "resumed")
    assert len(resumed) == 4
    assert all(record["bitwise"] for record in resumed)


def test_boundaries_in_steps_resume_bitwise_too(tmp_path: Path) -> None:
    settings = {"boundary_every": 3, "epochs": 9, "growth": {"dwell_steps": 6}}
    whole, _ = run(shuffled(), **settings)
    for step in (4, 12, 20):
        run(shuffled(), tmp_path, Script({step: [Steer("drain")]}), **settings)
    rest, _ = run(shuffled(), tmp_path, **settings)
    assert differing(weights(whole), weights(rest)) == []


def test_stopping_ends_the_run_with_its_growth_finished(tmp_path: Path) -> None:
    outcome, records = run(listed(), tmp_path, Script({30: [Steer("stop")]}))
    assert outcome.state == "stopped"
    assert outcome.test is not None
    assert outcome.grower.executor is not None
    assert outcome.grower.executor.trial is None
    assert not outcome.grower.executor._training
    assert kinds(records, "field_report")


def test_a_latency_budget_is_for_runs_that_need_not_be_deterministic() -> None:
    growth = {"latency_budget": 1e6}
    _, records = run(listed(), growth=growth, deterministic=False)
    gates = [record["gate"] for record in kinds(records, "transition") if record["gate"]]
    slowdowns = [gate["numbers"]["slowdown"] for gate in gates if "slowdown" in gate["numbers"]]
    assert slowdowns
    assert all(0.0 < slowdown < 1e6 for slowdown in slowdowns)
    for deterministic in (True, "auto"):
        with pytest.raises(ValueError, match=r"set run\.deterministic = false"):
            options(growth=growth, deterministic=deterministic)


def test_a_pause_changes_nothing_but_the_journal() -> None:
    control = Script({10: [Steer("pause")]})
    paused, records = run(listed(), None, control)
    straight, _ = run(listed())
    assert control.waits == 3
    assert [record["kind"] for record in records if record["kind"] in ("paused", "resumed")] == [
        "paused",
        "resumed",
    ]
    assert differing(weights(paused), weights(straight)) == []


def test_an_operators_cull_is_journaled_and_carried_out_at_the_next_boundary() -> None:
    outcome, records = run(listed(), None, Script({22: [Steer("cull", seed="s1")]}))
    told = [record for record in kinds(records, "decision") if record["policy"] == "operator"]
    assert [record["command"]["target"] for record in told] == ["s1"]
    assert told[0]["boundary"] == 6
    assert outcome.grower.executor is not None
    culled = [t for t in kinds(records, "transition") if t["seed"] == "s1"]
    assert "CULLED" in [t["to_stage"] for t in culled]


@pytest.mark.parametrize("seed", ["s99", "s1"])
def test_a_cull_that_cannot_be_is_told_and_training_goes_on(seed: str) -> None:
    steers = {40: [Steer("cull", seed=seed)], 45: [Steer("cull", seed=seed)]}
    outcome, records = run(listed(), None, Script(steers))
    assert outcome.state == "completed"
    told = [record for record in kinds(records, "decision") if record["policy"] == "operator"]
    assert len(told) == 2
    refused = kinds(records, "command_refused")
    assert refused
    assert all(seed in record["reason"] for record in refused)


def test_a_loss_that_stops_being_finite_withdraws_the_seed_on_trial() -> None:
    broken: list[bool] = []
    running: list[Engine] = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        value = F.cross_entropy(output, target)
        engine = running[0] if running else None
        executor = None if engine is None else engine.grower.executor
        if engine is None or executor is None or executor.trial is None or broken:
            return value
        in_the_run_itself = executor.steps == engine._steps  # the twin trains a little later
        if torch.is_grad_enabled() and in_the_run_itself and executor.trial.ramp_step == 3:
            broken.append(True)
            return value * float("nan")
        return value

    records: list[dict[str, Any]] = []
    engine = Engine(
        listed(loss=loss),
        options(),
        listener=lambda record: records.append(dict(record)),
        blueprints=BLUEPRINTS,
    )
    running.append(engine)
    outcome = engine.run()

    assert broken
    (emergency,) = kinds(records, "emergency")
    assert emergency["level"] == "SEVERE"
    assert outcome.state == "completed"
    assert all(torch.isfinite(tensor).all() for tensor in weights(outcome).values())


def test_a_spoilt_twin_that_a_cull_would_have_adopted_is_told_as_an_emergency(
    tmp_path: Path,
) -> None:
    """The twin is spoilt for good before the drain; the resumed run removes the seed."""
    settings: dict[str, Any] = {"growth": {"g4_margin": 1e9}}
    control = Spoiler({26: [Steer("drain")]})
    engine = Engine(
        listed(), options(**settings), folder=tmp_path, control=control, blueprints=BLUEPRINTS
    )
    control.engine = engine
    with closing(engine):
        assert engine.run().state == "drained"
    assert control.spoilt
    outcome, records = run(listed(), tmp_path, **settings)

    (emergency,) = kinds(records, "emergency")
    assert emergency["level"] == "SEVERE"
    assert "before the blend" in emergency["reason"]
    culled = [t for t in kinds(records, "transition") if t["to_stage"] == "CULLED" and t["gate"]]
    told = [t for t in culled if "spoilt_twin_tensors" in t["gate"]["numbers"]]
    assert [t["seed"] for t in told] == [emergency["seed"]]
    assert all(torch.isfinite(tensor).all() for tensor in weights(outcome).values())


NO_TWIN = 4_000
"""Bytes that are enough for a seed of the tests' host, and for no twin of it."""


def test_memory_that_has_no_room_for_a_twin_is_told_with_its_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("esper_async.tolaria.grower.growth_budget_bytes", lambda _device: NO_TWIN)
    outcome, records = run(listed())
    assert outcome.state == "completed"
    blended = [t for t in kinds(records, "transition") if t["to_stage"] == "BLENDING"]
    assert blended
    assert {t["gate"]["numbers"]["twin"] for t in blended} == {0.0}
    assert {t["gate"]["numbers"]["twin_budget_bytes"] for t in blended} == {float(NO_TWIN)}
    assert all("no twin" in t["gate"]["reason"] for t in blended)


def test_a_foreign_parameter_in_the_hosts_optimizer_ends_the_run_and_is_told() -> None:
    """A task's own code may reach for the optimizer; it may not train a seed with it."""
    running: list[Engine] = []
    records: list[dict[str, Any]] = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        executor = running[0].grower.executor if running else None
        groups = [] if executor is None else executor.branch.optimizer.param_groups
        if executor is not None and executor.trial is not None and len(groups) == 1:
            stolen = list(executor.trial.seed.graft.parameters())
            executor.branch.optimizer.add_param_group({"params": stolen})
        return F.cross_entropy(output, target)

    engine = Engine(
        listed(loss=loss),
        options(),
        listener=lambda record: records.append(dict(record)),
        blueprints=["BP021"],
    )
    running.append(engine)
    with pytest.raises(UserCodeError, match=r"Task.optimizer.step .* belongs to seed s1"):
        engine.run()
    (emergency,) = kinds(records, "emergency")
    assert emergency["level"] == "CRITICAL"
    assert "belongs to seed s1" in emergency["reason"]


def test_a_loss_that_stops_being_finite_before_there_is_a_way_back_fails_the_run() -> None:
    steps: list[int] = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        steps.append(1)
        value = F.cross_entropy(output, target)
        return value * float("nan") if len(steps) == 8 else value

    with pytest.raises(LossError, match=r"at step \d; .* there is no state to go back to"):
        run(listed(loss=loss), policy="static")


def test_another_thread_count_is_named_as_not_bitwise(tmp_path: Path) -> None:
    settings = {"policy": "static", "epochs": 2}
    run(listed(), tmp_path, Script({2: [Steer("drain")]}), **settings)
    _, records = run(listed(), tmp_path, threads=2, **settings)
    (resumed,) = kinds(records, "resumed")
    assert resumed["bitwise"] is False
    assert "torch threads: 2 instead of 1" in resumed["reason"]


class Unrepeatable:
    """A loader with an order that no random state decides."""

    def __init__(self, batches: list[Any]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(random.SystemRandom().sample(self._batches, len(self._batches)))


def test_a_loader_that_does_not_repeat_itself_is_named_as_not_bitwise(tmp_path: Path) -> None:
    settings = {"policy": "static", "epochs": 2}
    many = make_batches("mlp", count=40)
    run(listed(), tmp_path / "list", Script({2: [Steer("drain")]}), **settings)
    _, records = run(listed(), tmp_path / "list", **settings)
    assert kinds(records, "resumed")[0]["bitwise"] is True

    drain = Script({2: [Steer("drain")]})
    run(listed(train_loader=Unrepeatable(many)), tmp_path / "other", drain, **settings)
    _, records = run(listed(train_loader=Unrepeatable(many)), tmp_path / "other", **settings)
    (resumed,) = kinds(records, "resumed")
    assert resumed["bitwise"] is False
    assert "the training loader yields other batches" in resumed["reason"]


def test_waiting_for_the_loader_is_no_overhead(monkeypatch: pytest.MonkeyPatch) -> None:
    waited_s = 0.0

    class Slow(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            nonlocal waited_s
            for batch in list.__iter__(self):
                waited_s += 1000.0
                yield batch

    now = time.perf_counter
    monkeypatch.setattr("esper_async.tolaria.engine.time.perf_counter", lambda: now() + waited_s)
    _, records = run(listed(train_loader=Slow(make_batches("mlp", count=4))), policy="static")
    last = kinds(records, "boundary")[-1]
    assert 1.0 <= last["overhead_ratio"] < 100.0
    assert last["samples_per_s"] < 1.0


def test_where_steps_are_not_looked_at_the_boundary_meets_a_loss_that_is_not_finite() -> None:
    task = listed(loss=lambda output, target: F.cross_entropy(output, target) * float("nan"))
    engine = Engine(task, options(policy="static"), blueprints=BLUEPRINTS)
    engine._guards_each_step = False  # as on a CUDA device
    with pytest.raises(LossError, match="at step 4"):
        engine.run()


def test_a_boundary_tells_of_seeds_and_machine_what_the_state_packet_carries() -> None:
    _, records = run(listed())
    boundaries = kinds(records, "boundary")
    training = [s for b in boundaries for s in b["seeds"] if s["stage"] == "TRAINING"]
    assert any(seed["gradient_norm"] and seed["learning_rate"] for seed in training)
    form = StateForm("run", "own")
    wires = [system_state_of(record, form=form).SerializeToString() for record in boundaries]
    packets = [SystemStatePacket.FromString(wire) for wire in wires]  # the form is filled anew
    assert all(packet.hardware.memory_total_bytes > 2**20 for packet in packets)
    assert all(packet.hardware.device_type == "cpu" for packet in packets)
    depths = {seed.layer_depth for packet in packets for seed in packet.seeds}
    assert depths == {seed["depth"] for record in boundaries for seed in record["seeds"]} != {0}
    later = [seed for packet in packets for seed in packet.seeds if seed.alpha > 0]
    assert later
    assert not any(seed.HasField("gradient_norm") for seed in later)


def test_field_reports_are_told_once_for_each_command(tmp_path: Path) -> None:
    _, records = run(listed(), tmp_path)
    germinated = [
        record
        for record in kinds(records, "decision")
        if record["command"]["operation"] == "GERMINATE"
    ]
    reports = kinds(records, "field_report")
    assert len(reports) == len(germinated) >= 1
    assert len({report["report_id"] for report in reports}) == len(reports)


def test_a_field_report_carries_what_a_reward_needs(tmp_path: Path) -> None:
    _, records = run(listed(), tmp_path)
    planted = [
        record
        for record in kinds(records, "decision")
        if record["command"]["operation"] == "GERMINATE"
    ]
    for record in planted:
        assert len(decision_of(record).placements) == len(record["command"]["candidates"])
    reports = [field_report_of(record) for record in kinds(records, "field_report")]
    kept = SeedLifecycleStage.SEED_LIFECYCLE_STAGE_FOSSILIZED
    assert kept in {report.stage for report in reports}
    for report in reports:
        assert report.parameter_ratio >= 0.0
        assert report.compute_ratio > 0.0


def test_a_policy_that_asks_for_what_is_not_legal_does_not_end_the_run() -> None:
    class Stubborn:
        name = "stubborn"
        version = "1"

        def decide(self, view: Any) -> Decision:
            return Decision(Germinate((Candidate("nowhere", "BP001"),)), "always")

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            pass

    records: list[dict[str, Any]] = []
    engine = Engine(
        listed(),
        options(epochs=3),
        listener=lambda record: records.append(dict(record)),
        blueprints=BLUEPRINTS,
        policy=Stubborn(),
    )
    outcome = engine.run()
    assert outcome.state == "completed"
    assert len(kinds(records, "command_refused")) == 3
    assert kinds(records, "field_report") == []


def test_a_boundary_that_the_run_never_reaches_is_refused() -> None:
    with pytest.raises(TaskError, match="boundary_every is 1000 steps"):
        run(listed(), boundary_every=1000, epochs=2, policy="static")


def test_the_time_of_a_run_counts_over_its_resumes(tmp_path: Path) -> None:
    drained, _ = run(listed(), tmp_path, Script({20: [Steer("drain")]}), policy="static")
    resumed, _ = run(listed(), tmp_path, policy="static")
    assert resumed.wall_s > drained.wall_s


def determinism() -> tuple[bool, bool, bool]:
    """Return whether torch is deterministic, warns alone, and fills new tensors."""
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


@pytest.mark.parametrize(
    ("wanted", "is_on", "warns"),
    [("auto", True, True), (True, True, False), (False, False, False)],
)
def test_determinism_is_torchs_own_is_told_and_ends_with_the_run(
    wanted: Any, is_on: bool, warns: bool
) -> None:
    before, seen = determinism(), set()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        seen.add(determinism())
        return F.cross_entropy(output, target)

    _, records = run(
        listed(loss=loss), policy="static", epochs=1, deterministic=wanted, device="cpu"
    )
    assert seen == {(is_on, warns, not is_on)}
    assert determinism() == before
    (started,) = kinds(records, "run_started")
    assert started["deterministic"] is is_on


class Lookup(torch.nn.Module):
    """Rows of a small table by a long index: their gradient is a sum over thousands."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = torch.nn.Parameter(torch.linspace(-1, 1, 400).reshape(50, 8))
        self.head = torch.nn.Linear(8, 3)

    def forward(self, index: Tensor) -> Tensor:
        rows: Tensor = self.rows[index]  # (N, L, 8)
        return self.head(rows.mean(dim=1))  # type: ignore[no-any-return]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core adds in one order")
def test_a_run_in_several_threads_repeats_itself_where_torch_by_itself_would_not() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randint(50, (64, 2_000), generator=generator), torch.arange(64) % 3)
        for _ in range(4)
    ]
    outcomes = []
    for _ in range(3):
        torch.manual_seed(0)
        task = Task(model=Lookup(), loss=F.cross_entropy, train_loader=batches,
                    validation_loader=batches)  # fmt: skip
        outcomes.append(run(task, policy="static", epochs=3, threads=2, device="cpu")[0])
    for other in outcomes[1:]:
        assert differing(weights(outcomes[0]), weights(other)) == []


def test_what_is_measured_has_the_unit_of_the_tasks_loss() -> None:
    for task, unit in ((listed(), "nats"), (regression(), "loss")):
        _, records = run(task)
        seeds = [seed for record in kinds(records, "boundary") for seed in record["seeds"]]
        names = ("clean_contribution", "dependence", "benefit_vs_twin")
        assert {seed[name]["unit"] for seed in seeds for name in names if seed[name]} == {unit}
