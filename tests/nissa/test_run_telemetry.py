"""What a run knows of itself arrives at /metrics under its names, and nothing that it does not."""

import re
from pathlib import Path
from typing import Any

import pytest

from esper_async.nissa.ingest import Ingest
from esper_async.nissa.telemetry_names import KNOWN
from esper_async.runtime.metrics import FOLDED
from esper_async.tolaria.control import Steer
from esper_async.tolaria.dispatch import LATENCY
from esper_async.tolaria.messages import telemetry_of
from esper_async.tolaria.task import Task
from tests.nissa.conftest import World
from tests.nissa.test_ingest import dropped, exposed, ingest  # noqa: F401 - a fixture
from tests.tolaria.growth_tasks import listed, regression, shuffled
from tests.tolaria.test_engine import Script, kinds, run

Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """The records of a run that grows, goes back, refuses a cull and saves checkpoints."""
    steers = {22: [Steer("cull", seed="s99", request=1)], 30: [Steer("rollback", request=2)]}
    return run(shuffled(), tmp_path_factory.mktemp("run"), Script(steers))[1]


def take(records: Records, into: Ingest, loss_unit: str = "nats") -> None:
    for record in records:
        into.take(telemetry_of(record, loss_unit=loss_unit))


def test_every_figure_that_the_records_know_is_exposed(
    eventful: Records,
    world: World,
    ingest: Ingest,  # noqa: F811 - the fixture
) -> None:
    take(eventful, ingest)
    text = exposed(world)
    for part in ("validation", "assembly", "decision", "apply", "total"):
        assert f'esper_tolaria_boundary_duration_seconds_count{{part="{part}",run="run"}}' in text
    for name in (
        "tolaria_training_loss", "tolaria_training_accuracy", "tolaria_validation_loss",
        "tolaria_validation_accuracy",
        "tolaria_epoch_duration_seconds_count", "tolaria_shadow_cost_ratio",
        "tolaria_throughput_samples_per_s", "tolaria_seeds_active",
        "tolaria_checkpoint_duration_seconds_count", "tolaria_checkpoint_size_bytes",
        "tolaria_checkpoint_copy_seconds_count", "tolaria_checkpoint_memory_bytes",
        "tolaria_rollback_count_total", "tolaria_rollback_duration_seconds_count",
        "kasmina_alpha", "kasmina_clean_contribution", "kasmina_dependence",
        "kasmina_benefit_vs_twin", "kasmina_kernel_fetch_latency_seconds_count",
        "tamiyo_inference_latency_seconds_count", "tamiyo_risk_score", "tamiyo_risk_level",
        "tamiyo_decision_total", "tamiyo_pause_quota_remaining", "tamiyo_conservative_mode",
        "tamiyo_policy_version",
    ):  # fmt: skip
        assert re.search(rf"^esper_{name}\{{.*\}} [0-9.e+-]+$", text, re.MULTILINE), name
    assert dropped(world) == {}


def test_what_happened_is_counted_once(
    eventful: Records,
    world: World,
    ingest: Ingest,  # noqa: F811 - the fixture
) -> None:
    take(eventful, ingest)
    text = exposed(world)
    into_blending = [r for r in kinds(eventful, "transition") if r["to_stage"] == "BLENDING"]
    assert into_blending
    counted = f'from="TRAINING",run="run",to="BLENDING"}} {len(into_blending)}.0'
    assert f"esper_kasmina_stage_transitions_total{{{counted}" in text
    assert 'esper_tolaria_rollback_count_total{cause="operator",run="run"} 1.0' in text
    refused = 'reason="operator_asked_the_impossible",run="run"} 1.0'
    assert f"esper_kasmina_commands_refused_total{{{refused}" in text
    passed = sum((r["gate"] or {}).get("name") == "G3" for r in kinds(eventful, "transition"))
    assert f'gate="G3",result="passed",run="run"}} {passed}.0' in text
    planted = [r for r in kinds(eventful, "transition") if r["from_stage"] == "DORMANT"]
    made = 'esper_kasmina_kernel_fetch_latency_seconds_count{run="run",source="made"}'
    assert f"{made} {len(planted)}.0" in text
    decided = [r for r in kinds(eventful, "decision") if r["policy"] != "operator"]
    assert f'esper_tamiyo_inference_latency_seconds_count{{run="run"}} {len(decided)}.0' in text
    counted = re.findall(r"^esper_tamiyo_decision_total\{.*\} (\S+)$", text, re.MULTILINE)
    assert sum(map(float, counted)) == len(decided)
    left = decided[-1]["risk"]["pauses_left"]
    assert f'esper_tamiyo_pause_quota_remaining{{run="run"}} {left}.0' in text


def test_what_may_happen_is_counted_from_0_on(
    world: World,
    ingest: Ingest,  # noqa: F811 - the fixture
) -> None:
    take(run(listed(), policy="static", epochs=1)[1], ingest)
    text = exposed(world)
    for name, label in (
        ("tolaria_lr_integrity_violations", ""),
        ("tolaria_rollback_count", 'cause="guard",'),
        ("tolaria_emergency_count", 'level="CRITICAL",'),
        ("kasmina_commands_refused", 'reason="policy_asked_the_impossible",'),
    ):
        assert re.search(rf"^esper_{name}_total\{{{label}.*\}} 0\.0$", text, re.MULTILINE), name


def test_a_run_that_knows_no_accuracy_and_no_seed_sends_none(
    world: World,
    ingest: Ingest,  # noqa: F811 - the fixture
) -> None:
    take(run(regression(), policy="static")[1], ingest, "loss")
    text = exposed(world)
    for name in ("accuracy", "shadow_cost_ratio", "kasmina_alpha", "benefit_vs_twin", "rollback"):
        assert f"{name}{{" not in text
    assert 'esper_kasmina_seeds_active{run="run",stage="TRAINING"} 0.0' in text


@pytest.mark.parametrize(("task", "unit"), [(listed(), "nats"), (regression(), "loss")])
def test_a_loss_is_in_nats_only_where_it_is_known_to_be(task: Task, unit: str) -> None:
    records = run(task, policy="static", epochs=1)[1]
    (record,) = kinds(records, "boundary")
    points = {p.name: p.unit for p in telemetry_of(record, loss_unit=unit).points}
    assert points["tolaria.training.loss"] == points["tolaria.validation.loss"] == unit


def test_a_cull_on_command_is_not_counted_as_a_gate_that_passed() -> None:
    gate = {"name": "G0", "passed": True, "reason": "culled on command"}
    record = {
        "kind": "transition", "run": "r", "seq": 1, "time": 1.0,
        "from_stage": "TRAINING", "to_stage": "CULLED", "gate": gate, "kernel_ms": None,
    }  # fmt: skip
    points = telemetry_of(record, loss_unit="nats").points
    assert [point.name for point in points] == ["kasmina.stage.transitions"]


def test_a_rate_that_somebody_else_changed_is_counted() -> None:
    record = {"kind": "rate_violation", "run": "r", "seq": 1, "time": 1.0, "reason": "restored"}
    (point,) = telemetry_of(record, loss_unit="nats").points
    assert (point.name, point.value) == ("tolaria.lr.integrity_violations", 1.0)


def test_an_epoch_cut_by_a_resume_has_no_duration(tmp_path: Path) -> None:
    run(listed(), tmp_path, Script({6: [Steer("drain")]}), policy="static")
    rest = run(listed(), tmp_path, policy="static")[1]
    first, second, *_ = kinds(rest, "boundary")
    assert first["epoch_ms"] is None
    assert second["epoch_ms"] > 0


def test_a_decision_of_an_earlier_version_that_is_told_again_tells_what_it_knows(
    eventful: Records,
) -> None:
    record = dict(kinds(eventful, "decision")[0])
    del record["inference_ms"]
    record["risk"] = {k: v for k, v in record["risk"].items() if k != "pauses_left"}
    names = {point.name for point in telemetry_of(record, loss_unit="nats").points}
    assert "tamiyo.risk.score" in names
    assert not names & {"tamiyo.inference.latency_ms", "tamiyo.pause.quota_remaining"}


def test_every_name_that_a_run_sends_is_listed_and_every_listed_name_is_sent(
    eventful: Records,
) -> None:
    """What rules and dashboards ask for is checked against the list: it must promise nothing."""
    sent = {p.name for r in eventful for p in telemetry_of(r, loss_unit="nats").points}
    assert sent <= set(KNOWN)
    of_compiled_hosts = {"tolaria.recompiles", "tolaria.compile.duration_ms"}
    sent |= {FOLDED, LATENCY, "tolaria.compile.given_up", *of_compiled_hosts}
    assert set(KNOWN) == sent
