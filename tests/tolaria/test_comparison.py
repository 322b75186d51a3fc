"""The comparison at a run's end: it says what it is at, and obeys."""

from collections import defaultdict
from typing import Any

import pytest

from esper_async.tolaria.comparison import ComparisonInterrupted, compare
from esper_async.tolaria.control import Steer
from esper_async.tolaria.engine import Engine
from tests.tolaria.growth_tasks import BLUEPRINTS, listed
from tests.tolaria.test_engine import Script, options


class Hearing(Script):
    """A control that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, list[int]] = defaultdict(list)

    def heartbeat(self, step: int, **progress: Any) -> None:
        super().heartbeat(step, **progress)
        self.told[progress["phase"]].append(progress["done"])
        assert progress["total"] == 12


def test_each_baseline_says_by_its_heartbeat_which_it_is_and_how_far() -> None:
    task, how, control = listed(), options(), Hearing()
    outcome = Engine(task, how, blueprints=BLUEPRINTS).run()
    rows = compare(task, outcome, how, listed, control=control)
    assert len(rows) == 3
    assert list(control.told) == [
        "comparing: the host alone",
        "comparing: the final net from scratch",
    ]
    for boundaries in control.told.values():
        assert boundaries == [step // 4 for step in range(48)]


def test_a_drain_ends_the_comparison_at_its_next_batch() -> None:
    task, how = listed(), options(policy="static", epochs=2)
    outcome = Engine(task, how).run()
    control = Script({3: [Steer("drain")]})
    with pytest.raises(ComparisonInterrupted, match="drained"):
        compare(task, outcome, how, listed, control=control)
    assert control.step == 3


def test_what_is_asked_of_the_run_changes_no_baseline() -> None:
    task, how = listed(), options(policy="static", epochs=4)
    outcome = Engine(task, how).run()
    asked = [
        Steer("rollback", request=1),
        Steer("emergency", level="MINOR", reason="late", request=2),
        Steer("emergency", level="SEVERE", reason="late", request=3),
    ]
    rows = compare(task, outcome, how, listed, control=Script({10: asked}))
    alone = compare(task, outcome, how, listed)
    assert [row["value"] for row in rows] == [row["value"] for row in alone]
    assert rows[1]["macs"] == alone[1]["macs"]
