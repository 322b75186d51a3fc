"""What a learner leaves in the state directory is shown while it is news, whatever it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from esper_async.nissa.reading import levels
from esper_async.runtime.clock import FakeClock
from esper_async.runtime.metrics import Registry
from esper_async.simic.learning import STALE_S, TRAINING, Learning, tell_pass
from tests.simic.test_registry import policy, record, registry

FIGURES = {"loss": 0.5, "policy_loss": 0.25, "value_loss": 0.75, "entropy": 1.5, "kl": 0.01}


def shown(metrics: Registry) -> dict[str, list[tuple[Any, float]]]:
    found = levels(metrics, *TRAINING)
    return {name: [(dict(each.labels), each.value) for each in found[name]] for name in found}


def test_the_figures_of_the_last_pass_are_shown_until_they_are_no_news(tmp_path: Path) -> None:
    metrics, clock = Registry(), FakeClock()
    learning = Learning(tmp_path, None, registry=metrics, clock=clock)
    learning.look()
    assert shown(metrics) == {}
    tell_pass(tmp_path, "ppo", clock.time(), {**FIGURES, "loss": 2.0})
    learning.look()
    tell_pass(tmp_path, "impala", clock.time(), FIGURES)
    learning.look()
    assert shown(metrics) == {
        f"simic.training.{name}": [({"method": "impala"}, value)]
        for name, value in FIGURES.items()
    }  # fmt: skip
    clock.advance(STALE_S + 1)
    learning.look()
    assert shown(metrics) == {}


@pytest.mark.parametrize(
    "text", ["", "[", "null", "3", "{}", '{"method": "ppo", "at": "x", "figures": {}}',
             '{"method": "ppo", "at": 1, "figures": null}']
)  # fmt: skip
def test_what_no_learner_writes_is_passed_over(tmp_path: Path, text: str) -> None:
    metrics = Registry()
    (tmp_path / "simic").mkdir()
    (tmp_path / "simic" / "learning.json").write_text(text)
    Learning(tmp_path, None, registry=metrics, clock=FakeClock()).look()
    assert shown(metrics) == {}


def test_a_figure_that_is_none_has_no_series(tmp_path: Path) -> None:
    metrics, clock = Registry(), FakeClock()
    told = {"method": "ppo", "at": clock.time(), "figures": {**FIGURES, "kl": float("nan")}}
    (tmp_path / "simic").mkdir()
    (tmp_path / "simic" / "learning.json").write_text(json.dumps(told))
    Learning(tmp_path, None, registry=metrics, clock=clock).look()
    assert "simic.training.kl" not in shown(metrics)
    assert shown(metrics)["simic.training.loss"][0][1] == 0.5


def test_each_validation_counts_once_by_what_came_of_it(tmp_path: Path) -> None:
    metrics, kept = Registry(), registry(tmp_path)
    learning = Learning(tmp_path, kept, registry=metrics, clock=FakeClock())
    good = kept.submit(policy(1), record("shipped"))
    kept.submit(policy(2), record(good.id, passes=False))
    learning.look()
    kept.submit(policy(3), record(good.id, passes=False))
    kept.roll_back(good.features)  # which is no validation
    learning.look()
    learning.look()
    found = levels(metrics, "simic.validation.result")["simic.validation.result"]
    assert {dict(each.labels)["result"]: each.value for each in found} == {
        "passed": 1.0,
        "failed": 2.0,
    }
