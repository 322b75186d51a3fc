"""Error budgets: what counts as good, how fast they go, and that silence is not a success."""

from collections.abc import Callable
from pathlib import Path

import pytest

from esper_async.nissa.history import History
from esper_async.nissa.metrics import NissaMetrics
from esper_async.nissa.objectives import OBJECTIVES, Objective
from esper_async.nissa.reading import Reading
from esper_async.nissa.slo import FAST, SLOW, Accounts, Budget
from esper_async.oona.metrics import BusMetrics
from esper_async.runtime.metrics import Registry

START = 1_699_999_200.0
READY = {"oona": {"state": "ready"}}
Look = Callable[[float], dict[str, Budget]]


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def look(registry: Registry, tmp_path: Path) -> Look:
    """Count and draw up the budgets at so many seconds after the start."""
    history = History(tmp_path / "metrics.sqlite")
    history.open()
    accounts = Accounts(OBJECTIVES, metrics=NissaMetrics(registry))

    def at(second: float) -> dict[str, Budget]:
        reading = Reading.of(registry)
        accounts.count(reading, READY)
        history.take(Reading.of(registry), START + second)
        return {each.objective.name: each for each in accounts.budgets(history, START + second)}

    return at


def test_an_objective_of_which_nothing_happened_is_not_measured(look: Look) -> None:
    budget = look(0.0)["oona/latency"]
    assert (budget.ratio, budget.left, budget.spent_24h) == (None, None, None)
    assert set(budget.burn.values()) == {None}


def test_a_publish_is_good_up_to_its_limit(look: Look, registry: Registry) -> None:
    latency = BusMetrics(registry).publish_latency
    for ms in (1.0, 25.0, 26.0, 400.0):
        latency.observe(ms, topic="alerts")
    budget = look(0.0)["oona/latency"]
    assert (budget.good, budget.total) == (2.0, 4.0)


def test_a_service_is_looked_at_once_an_evaluation(look: Look) -> None:
    for second in range(0, 300, 30):
        budget = look(second)["oona/availability"]
    assert (budget.total, budget.ratio, budget.left) == (10.0, 1.0, 1.0)


def test_a_fault_burns_fast_and_then_slowly_and_the_fast_alert_ends_first(
    look: Look, registry: Registry
) -> None:
    handled, dead = BusMetrics(registry).handled, BusMetrics(registry).dead_letters
    fast, slow = [], []
    for minute in range(0, 24 * 60, 5):
        handled.add(95, topic="alerts", group="nissa")
        if 300 <= minute < 360:
            dead.add(5, topic="alerts", group="nissa")
        budget = look(minute * 60.0)["oona/errors"]
        if budget.burns(FAST):
            fast.append(minute)
        if budget.burns(SLOW):
            slow.append(minute)
    assert 300 < fast[0] <= 330
    assert 355 <= fast[-1] <= 365
    assert 355 <= slow[-1] <= 395


def test_one_bad_look_at_a_young_system_is_no_fire(look: Look) -> None:
    READY["oona"]["state"] = "backing_off"
    look(0.0)
    READY["oona"]["state"] = "ready"
    for second in range(30, 600, 30):
        budget = look(second)["oona/availability"]
    assert budget.total == 20.0
    assert not budget.burns(FAST)
    assert not budget.burns(SLOW)
    assert budget.spent_24h is None


def test_what_is_left_of_a_young_systems_budget_is_of_a_month_that_goes_on_like_its_day(
    look: Look, registry: Registry
) -> None:
    handled, dead = BusMetrics(registry).handled, BusMetrics(registry).dead_letters
    handled.add(995, topic="alerts", group="nissa")
    dead.add(5, topic="alerts", group="nissa")
    budget = look(0.0)["oona/errors"]
    assert budget.expected == 30 * budget.total
    assert budget.left == pytest.approx(1.0 - 5 / (0.001 * budget.expected))
    assert budget.spent_24h == pytest.approx(1.0 - budget.left)


def test_every_metric_that_an_objective_reads_is_one_that_somebody_makes() -> None:
    from tests.nissa.every_metric import full_registry

    reading = Reading.of(full_registry())
    names = set(reading.samples)
    asked: set[str] = set()

    class Watching(Reading):
        def total(self, name: str, **labels: str) -> float:
            asked.add(name)
            return 0.0

    for objective in OBJECTIVES:
        if objective.measure is not None:
            objective.measure(Watching(reading.samples, reading.counters))
    assert asked
    assert asked <= names


def test_the_limit_of_a_latency_objective_is_a_bucket_of_its_histogram() -> None:
    """A limit between two buckets would never be counted."""
    from tests.nissa.every_metric import full_registry

    reading = Reading.of(full_registry())
    for objective in OBJECTIVES:
        if objective.kind == "latency":
            assert objective.measure is not None
            good, total = objective.measure(reading)
            assert good == total > 0, objective.name


def test_each_subsystem_promises_all_three_but_the_catalogue_that_nothing_can_make_fail() -> None:
    """Karn's catalogue is a constant of the package: no answer of it can be an error."""
    kinds: dict[str, set[str]] = {}
    for objective in OBJECTIVES:
        kinds.setdefault(objective.service, set()).add(objective.kind)
    every = {"availability", "latency", "errors"}
    assert kinds.pop("karn") == every - {"errors"}
    assert len(kinds) == 8
    assert all(promised == every for promised in kinds.values()), kinds


def test_objectives_have_each_their_own_name() -> None:
    names = [objective.name for objective in OBJECTIVES]
    assert len(set(names)) == len(names)
    assert all(0.9 <= objective.target < 1 for objective in OBJECTIVES)
    assert Objective("oona", "errors", 0.99, "text").name == "oona/errors"
