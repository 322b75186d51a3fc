"""Records as contract messages: what stands in them, and what is absent."""

from typing import Any

import pytest

from esper_async.leyline.v1 import enums_pb2 as enums
from esper_async.tamiyo.offer import unpack_draw
from esper_async.tamiyo.policies import make_policy
from esper_async.tolaria.messages import (
    Primary,
    decision_of,
    form_of,
    system_state_of,
    telemetry_of,
)
from esper_async.tolaria.task import Task
from tests.tamiyo.graph_views import view
from tests.tolaria.growth_tasks import listed, regression

BOUNDARY: dict[str, Any] = {
    "run": "r1",
    "time": 1.0,
    "step": 4,
    "epoch": 1,
    "boundary": 1,
    "metrics": {"validation_loss": 0.5, "validation_accuracy": 0.75},
    "seeds": [],
    "hardware": {},
    "isolation_violations": None,
}


@pytest.mark.parametrize(
    ("task", "key", "direction"),
    [
        (listed(), "validation_accuracy", enums.METRIC_DIRECTION_MAXIMISE),
        (listed(maximize=False), "validation_accuracy", enums.METRIC_DIRECTION_MINIMISE),
        (regression(), "validation_loss", enums.METRIC_DIRECTION_MINIMISE),
    ],
)
def test_a_state_packet_names_the_primary_metric_and_its_direction(
    task: Task, key: str, direction: int
) -> None:
    primary = Primary(task.primary_key, task.larger_is_better)
    packet = system_state_of(BOUNDARY, form=form_of("r", "run", primary))
    assert (packet.primary_metric, packet.primary_direction) == (key, direction)
    assert packet.primary_metric in BOUNDARY["metrics"]


@pytest.mark.parametrize(
    ("parts", "over"),
    [
        ({"assembly": 3.5, "decision": 12.0, "apply": 1.5, "total": 17.0}, []),
        ({"assembly": 3.6, "decision": 1.0, "apply": 0.1, "total": 4.7}, ["assembly"]),
        ({"assembly": 1.0, "decision": 16.0, "apply": 1.6, "total": 18.6},
         ["apply", "decision", "total"]),
    ],
)  # fmt: skip
def test_a_boundary_counts_each_part_that_took_longer_than_its_budget(
    parts: dict[str, float], over: list[str]
) -> None:
    record = {
        **BOUNDARY, "seq": 1, "kind": "boundary", "samples_per_s": 1.0,
        "boundary_ms": {"validation": 900.0, **parts},
    }  # fmt: skip
    found = [
        point
        for point in telemetry_of(record, loss_unit="nats").points
        if point.name == "tolaria.boundary.over_budget"
    ]
    assert sorted(point.labels["part"] for point in found) == over
    assert {point.value for point in found} <= {1.0}


DECISION: dict[str, Any] = {
    "run": "r1",
    "time": 1.0,
    "step": 4,
    "boundary": 4,
    "policy": "random",
    "policy_version": "1",
    "reason": "drawn evenly",
    "probability": 0.5,
    "alternatives": [],
    "command": {
        "id": "c4", "type": "SEED", "operation": "GERMINATE", "target": None, "candidates": [],
    },
}  # fmt: skip


def test_a_decision_record_carries_the_features_of_what_it_plants() -> None:
    features = {"version": "placement-1", "values": [[1.0, 0.25], [1.0, 0.5]]}
    message = decision_of({**DECISION, "placements": features})
    assert [list(each.values) for each in message.placements] == features["values"]
    assert {each.version for each in message.placements} == {"placement-1"}


def test_a_decision_of_an_earlier_journal_carries_none() -> None:
    assert len(decision_of(DECISION).placements) == 0
    assert len(decision_of({**DECISION, "placements": None}).placements) == 0
    assert not decision_of(DECISION).HasField("choices")


def test_a_decision_record_carries_all_that_it_was_drawn_from_and_telemetry_does_not() -> None:
    choices = make_policy("random", 1).decide(view(14)).choices
    assert choices is not None
    record = {**DECISION, "choices": choices}
    assert decision_of(record).choices == unpack_draw(choices)
    packet = telemetry_of({**record, "seq": 1, "kind": "decision"}, loss_unit="nats")
    assert choices not in packet.events[0].fields["record"]
