"""The drill of kills aims at what it says: each place is code, each kind is in the short form."""

import pkgutil

import pytest

from esper_async.study.bench.benchmark import Effort
from esper_async.study.bench.cases.crash import plan
from esper_async.study.bench.deaths import PLACES

KINDS = {"a checkpoint", "a germination", "a blend", "a twin", "a rollback", "any"}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_is_something_that_is_called(place: str) -> None:
    assert callable(pkgutil.resolve_name(PLACES[place].target))


def test_the_short_form_has_six_kills_one_of_each_kind() -> None:
    deaths = [death for run in plan(Effort.SHORT) for death in run]
    assert len(deaths) == 6
    assert {death.kind for death in deaths} == KINDS


def test_the_full_form_has_thirty_instants_of_chance_and_every_place() -> None:
    runs = plan(Effort.FULL)
    assert sum(run[0].kind == "any" for run in runs) == 30
    assert {run[0].place for run in runs if len(run) == 1} >= set(PLACES)
    assert {death.kind for death in runs[-1]} >= KINDS - {"any"}
