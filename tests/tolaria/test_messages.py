"""Records as contract messages: what stands in them, and what is absent."""

from typing import Any

import pytest

from esper_async.leyline.v1 import enums_pb2 as enums
from esper_async.tolaria.messages import Primary, form_of, system_state_of
from esper_async.tolaria.task import Task
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
