"""When a comparison's rule, which was fixed beforehand, holds."""

import pytest

from esper_async.study.analysis import Answer
from esper_async.study.plan import ComparisonPlan
from esper_async.study.statistics import Estimate


def answer(
    by: str, low: float, value: float, *, parameters: float = 1.0, most: float | None = None
):
    asked = ComparisonPlan.model_validate(
        {"treated": "a", "control": "b", "more_than": 1.0, "by": by, "most_parameters": most}
    )
    difference = Estimate(value, low, value + 1, 4)
    return Answer(asked, "task", difference, None, parameters)


@pytest.mark.parametrize(
    ("by", "low", "value", "holds"),
    [
        ("lower bound", 1.1, 2.0, True),
        ("lower bound", 1.0, 2.0, False),
        ("value", 0.0, 1.1, True),
        ("value", 0.0, 1.0, False),
        ("no gain", 1.0, 2.0, True),
        ("no gain", 1.1, 2.0, False),
    ],
)
def test_a_rule_looks_at_the_bound_it_names(by: str, low: float, value: float, holds: bool):
    assert answer(by, low, value).holds is holds


def test_what_adds_too_much_does_not_hold_whatever_it_scores():
    assert answer("value", 2.0, 3.0, parameters=1.05, most=1.05).holds is True
    assert answer("value", 2.0, 3.0, parameters=1.06, most=1.05).holds is False
    assert answer("no gain", 0.0, 0.0, parameters=1.06, most=1.05).holds is False


def test_what_was_not_measured_neither_holds_nor_fails():
    asked = ComparisonPlan(treated="a", control="b")
    assert Answer(asked, "task", None, None, reason="a run failed").holds is None
