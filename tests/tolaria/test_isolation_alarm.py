"""What a seed does to its host is told of end to end: journal, checkpoint, metric, alert."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper_async.kasmina.isolation import IN_A_ROW, VIOLATIONS
from esper_async.kasmina.kernels.graft import Graft, GraftHook
from esper_async.kasmina.stage import Stage
from esper_async.nissa.alert_rules import isolation_violation
from esper_async.nissa.event_store import EventStore
from esper_async.nissa.ingest import Ingest
from esper_async.nissa.metrics import NissaMetrics
from esper_async.nissa.reading import Reading
from esper_async.nissa.signals import SignalSource
from esper_async.runtime.clock import FakeClock
from esper_async.runtime.metrics import Registry
from esper_async.tamiyo.hub import Hub
from esper_async.tolaria.checkpoint import CheckpointStore
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.messages import telemetry_of
from tests.growth_hosts import Kind
from tests.tolaria.growth_tasks import BLUEPRINTS, listed
from tests.tolaria.test_engine import Script, kinds, options, run

Records = list[dict[str, Any]]


class Trespasser(nn.Module):
    """A kernel that keeps hold of a buffer of its host, and writes to it in its forward pass."""

    output = "change"

    def __init__(self, victim: Tensor) -> None:
        super().__init__()
        self.victim = [victim]  # in a list, so that it is not registered as the kernel's own

    def forward(self, h: Tensor) -> Tensor:
        self.victim[0].mul_(1.01)
        return torch.zeros_like(h)


class Planter(Script):
    """Puts a trespasser into the first seed that trains, as soon as there is one."""

    engine: Engine | None = None
    bad: str | None = None
    blueprint: str | None = None

    def poll(self) -> Any:
        executor = None if self.engine is None else self.engine.grower.executor
        training = [] if executor is None else executor._training
        if training and self.bad is None and executor is not None:
            seed = training[0]
            seed.graft.kernel = Trespasser(executor.branch.model.get_buffer("body.1.running_var"))
            seed.optimizer = None
            self.bad, self.blueprint = seed.id, seed.candidate.blueprint
        return super().poll()


def trespassed(folder: Path | None = None, **changes: Any) -> tuple[Engine, Planter, Records]:
    records: Records = []
    control = Planter()
    engine = Engine(
        listed(),
        options(**changes),
        folder=folder,
        control=control,
        listener=lambda record: records.append(dict(record)),
        blueprints=BLUEPRINTS,
    )
    control.engine = engine
    with closing(engine):
        engine.run()
    return engine, control, records


def test_a_kernel_that_writes_to_its_host_is_an_emergency_with_a_checkpoint_of_its_own(
    tmp_path: Path,
) -> None:
    engine, control, records = trespassed(tmp_path, checkpoint_every=100, epochs=24)
    assert control.bad is not None

    (emergency,) = kinds(records, "emergency")
    assert (emergency["level"], emergency["seed"]) == ("CRITICAL", control.bad)
    assert "quarantined" in emergency["reason"]
    assert "the buffer body.1.running_var" in emergency["reason"]
    (culled,) = [
        told
        for told in kinds(records, "transition")
        if (told["seed"], told["to_stage"]) == (control.bad, "CULLED")
    ]
    assert culled["from_stage"] == "TRAINING"
    assert culled["gate"]["numbers"][VIOLATIONS] == IN_A_ROW
    assert CheckpointStore(tmp_path / "checkpoints").steps() == [emergency["step"]]

    planted = [t for t in kinds(records, "transition") if t["to_stage"] == "GERMINATED"]
    later = [t for t in planted if t["boundary"] > emergency["boundary"]]
    assert later
    assert control.blueprint not in {told["blueprint"] for told in later}
    assert engine.grower.executor is not None
    assert engine.grower.executor.quarantined == {control.blueprint}


def test_its_violations_reach_the_alert_that_is_there_for_them(tmp_path: Path) -> None:
    _, _, records = trespassed()
    registry, clock = Registry(), FakeClock()
    metrics = NissaMetrics(registry)
    events = EventStore(tmp_path / "events.db", clock=clock)
    ingest = Ingest(registry=registry, metrics=metrics, events=events, clock=clock)
    source = SignalSource(
        hub=Hub(tmp_path, clock=clock),
        system=dict,
        resumes=lambda: 0,
        state_dir=tmp_path,
        clock=clock,
    )
    with closing(events):
        assert isolation_violation(source.gather(Reading.of(registry))) == []
        for record in records:
            ingest.take(telemetry_of(record, loss_unit="nats"))
        (finding,) = isolation_violation(source.gather(Reading.of(registry)))
    assert finding.value == IN_A_ROW


class Hanger(Script):
    """Hangs a hook of its own where a seed was removed, as a reset that forgot it would."""

    engine: Engine | None = None
    seed: str | None = None

    def poll(self) -> Any:
        executor = None if self.engine is None else self.engine.grower.executor
        culled = [] if executor is None else executor.in_stage(Stage.CULLED)
        if culled and self.seed is None and executor is not None:
            seed = culled[0]
            site = executor.branch.model.get_submodule(seed.site.path)
            left = Graft(nn.Identity(), form=seed.site.form, mode="residual")
            site.register_forward_hook(GraftHook(left))
            self.seed = seed.id
        return super().poll()


def test_a_reset_that_leaves_a_trace_is_an_emergency_and_closes_the_site() -> None:
    records: Records = []
    control = Hanger()
    engine = Engine(
        listed(),
        options(epochs=20),
        control=control,
        listener=lambda record: records.append(dict(record)),
        blueprints=BLUEPRINTS,
    )
    control.engine = engine
    with closing(engine):
        engine.run()
    told = [record for record in kinds(records, "emergency") if record["seed"] == control.seed]
    assert [record["level"] for record in told] == ["CRITICAL"]
    assert "a trace of the seed is left (hooks: 1)" in told[0]["reason"]
    executor = engine.grower.executor
    assert executor is not None
    assert control.seed is not None
    seed = executor.seeds[control.seed]
    assert seed.stage is Stage.RESETTING
    assert seed.site.name in executor.resting_sites()
    lane = [t["to_stage"] for t in kinds(records, "transition") if t["seed"] == control.seed]
    assert lane[-1] == "RESETTING"


@pytest.mark.parametrize("kind", ["mlp", "conv2d", "attention"])
def test_a_good_run_has_nothing_to_tell(kind: Kind) -> None:
    blueprints = BLUEPRINTS if kind == "mlp" else ["BP001", "BP014", "BP020"]
    records: Records = []
    engine = Engine(
        listed(kind),
        options(growth={"isolation_every": 1}),
        listener=lambda record: records.append(dict(record)),
        blueprints=blueprints,
    )
    with closing(engine):
        engine.run()
    assert engine.grower.executor is not None
    assert sum(seed.shadow_passes for seed in engine.grower.executor.seeds.values()) > 20
    assert kinds(records, "emergency") == []
    assert {record["isolation_violations"] for record in kinds(records, "boundary")} == {0}


def test_a_run_that_does_not_grow_tells_of_no_samples() -> None:
    _, records = run(listed(), policy="static", epochs=1)
    (boundary,) = kinds(records, "boundary")
    assert boundary["isolation_violations"] is None
    points = {point.name for point in telemetry_of(boundary, loss_unit="nats").points}
    assert "kasmina.isolation.violations" not in points
