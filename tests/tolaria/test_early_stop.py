"""Early stopping: by the primary metric, in its direction, and the same after a resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from esper_async.tolaria.control import Steer
from esper_async.tolaria.early_stop import boundaries_since_best
from esper_async.tolaria.task import Task
from tests.growth_hosts import differing
from tests.tolaria.growth_tasks import listed
from tests.tolaria.test_engine import Script, kinds, run, weights

_VALUES = st.lists(st.one_of(st.none(), st.floats()), max_size=12)


@given(values=_VALUES, larger=st.booleans())
def test_the_best_is_the_first_of_the_best_values_that_are_numbers(
    values: list[float | None], larger: bool
) -> None:
    history: list[dict[str, Any]] = [{} if v is None else {"m": v} for v in values]
    known = [v for v in values if v is not None and v == v]
    found = boundaries_since_best(history, "m", larger_is_better=larger)
    if not known:
        assert found == len(values)
    else:
        best = max(known) if larger else min(known)
        assert found == len(values) - 1 - values.index(best)


def test_a_run_ends_once_its_metric_has_not_become_better_for_so_long() -> None:
    outcome, records = run(frozen(), policy="static", epochs=30, patience=3)
    (told,) = kinds(records, "early_stop")
    assert outcome.state == "completed"
    assert len(outcome.history) == 4  # the best is the first
    assert (
        told["reason"] == "validation_accuracy was at its best 3 boundaries ago (run.patience = 3)"
    )


@pytest.mark.parametrize(("maximize", "boundaries"), [(True, 3), (False, 8)])
def test_any_metric_may_be_the_primary_one_in_its_own_direction(
    maximize: bool, boundaries: int
) -> None:
    values = iter(range(100, 0, -1))

    def falling(output: Tensor, target: Tensor) -> Tensor:
        return torch.tensor(float(next(values)))

    task = listed(metrics={"remaining": falling}, primary_metric="remaining", maximize=maximize)
    outcome, records = run(task, policy="static", epochs=8, patience=2)
    assert len(outcome.history) == boundaries
    assert kinds(records, "run_started")[0]["primary_metric"] == "validation_remaining"


def test_without_a_primary_metric_a_run_stops_by_its_validation_loss() -> None:
    outcome, records = run(frozen(metrics={}, primary_metric=None), policy="static", patience=2)
    losses = [entry["validation_loss"] for entry in outcome.history]
    assert losses.index(min(losses)) == len(losses) - 3
    assert "validation_loss" in kinds(records, "early_stop")[0]["reason"]


def test_without_patience_a_run_goes_on_to_its_end() -> None:
    outcome, records = run(frozen(), policy="static", epochs=6)
    assert len(outcome.history) == 6
    assert kinds(records, "early_stop") == []


@pytest.mark.parametrize("cut", [6, 15, 16])
def test_a_resumed_run_stops_where_the_whole_one_did(tmp_path: Path, cut: int) -> None:
    settings: dict[str, Any] = {"policy": "static", "epochs": 30, "patience": 3}
    whole, _ = run(frozen(), **settings)
    run(frozen(), tmp_path, Script({cut: [Steer("drain")]}), **settings)
    rest, _ = run(frozen(), tmp_path, **settings)
    assert rest.history == whole.history
    assert differing(weights(rest), weights(whole)) == []


def frozen(**changes: Any) -> Task:
    """Return a task that does not become better: its optimizer hardly moves."""
    return listed(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0), **changes)
