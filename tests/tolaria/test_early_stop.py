"""Early stopping: by the primary metric, in its direction, and the same after a resume."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_async.tolaria.control import Steer
from esper_async.tolaria.early_stop import boundaries_since_best
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


def frozen() -> Any:
    """Return a task that does not become better: its optimizer hardly moves."""
    import torch

    return listed(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
