"""Alerts: each rule fires on its fault and on nothing else; holding, seeing, silencing, ending."""

from dataclasses import replace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from esper_async.nissa.alert_rules import RULES
from esper_async.nissa.alert_store import AlertStore
from esper_async.nissa.alerts import AlertBook, Finding
from esper_async.nissa.metrics import Sample
from esper_async.nissa.objectives import Objective
from esper_async.nissa.reading import Reading
from esper_async.nissa.signals import Signals, SignalSource
from esper_async.nissa.slo import Budget
from esper_async.runtime.clock import FakeClock
from esper_async.runtime.metrics import Registry
from tests.nissa.conftest import BEARER, World

WINDOWS = ("5m", "30m", "1h", "6h", "24h")


def budget(burn: dict[str, float], spent_24h: float = 0.0) -> Budget:
    rates = {name: burn.get(name, 1.0) for name in WINDOWS}
    return Budget(Objective("oona", "latency", 0.99, "fast"), 990, 1_000, 1_000, rates, spent_24h)


CALM = Signals(
    boundary_ms={"r": [4.0, 19.0, 5.0]},
    gauges={"oona.queue.depth": [Sample((("topic", "decisions"),), 4_000.0)]},
    increases={"kasmina.isolation.violations": 2.0, "resumes": 0.0},
    services={
        "oona": {"state": "ready", "restarts": 3, "breakers": {"oona.publish": "half_open"}},
        "karn": {"state": "starting", "restarts": 0, "breakers": {}},
    },
    disk_free=0.5,
    spools_waiting_s={"tolaria/r1": 299.0},
)
DEEP = {"oona.queue.depth": [Sample((("topic", "decisions"),), 4_001.0)]}
FAULTS: dict[str, Signals] = {
    "training_latency_high": replace(CALM, boundary_ms={"r": [18.1, 19.0, 25.0]}),
    "kasmina_isolation_violation": replace(CALM, increases={"kasmina.isolation.violations": 3.0}),
    "oona_queue_depth": replace(CALM, gauges=DEEP),
    "tezzeret_conservative_mode": replace(
        CALM, gauges={"tezzeret.conservative_mode": [Sample((), 1.0)]}
    ),
    "breaker_open": replace(
        CALM, services={"oona": {"state": "ready", "breakers": {"oona.publish": "open"}}}
    ),
    "service_restart_loop": replace(
        CALM, services={"karn": {"state": "backing_off", "restarts": 2, "breakers": {}}}
    ),
    "child_lost": replace(CALM, increases={"resumes": 1.0}),
    "disk_low": replace(CALM, disk_free=0.049),
    "field_report_overdue": replace(CALM, spools_waiting_s={"tolaria/r1": 300.0}),
    "slo_burn_fast": replace(CALM, budgets=[budget({"1h": 14.4, "5m": 20.0})]),
    "slo_burn_slow": replace(CALM, budgets=[budget({"6h": 6.0, "30m": 6.0})]),
    "slo_budget_spent": replace(CALM, budgets=[budget({}, spent_24h=0.4)]),
    "told_by_a_part": replace(CALM, told=[Finding((("by", "a1"),), "The controller is stuck.")]),
}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def book(clock: FakeClock) -> AlertBook:
    return AlertBook(RULES, clock=clock)


def test_no_rule_finds_anything_while_all_is_calm(book: AlertBook, clock: FakeClock) -> None:
    book.evaluate(CALM)
    clock.advance(3_600.0)
    assert book.evaluate(CALM) == []
    assert book.all() == []


def test_every_shipped_rule_has_its_fault_here() -> None:
    assert {rule.name for rule in RULES} == set(FAULTS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_fires_once_its_fault_has_held_and_resolves_when_it_is_gone(
    rule: Any, book: AlertBook, clock: FakeClock
) -> None:
    fault = FAULTS[rule.name]
    fired = book.evaluate(fault)
    if rule.hold_s > 0:
        assert fired == []
        clock.advance(rule.hold_s - 0.1)
        assert book.evaluate(fault) == []
        clock.advance(0.1)
        fired = book.evaluate(fault)
    assert [(alert.name, alert.state) for alert in fired] == [(rule.name, "firing")]
    assert book.evaluate(fault) == []
    [resolved] = book.evaluate(CALM)
    assert (resolved.id, resolved.state) == (fired[0].id, "resolved")
    assert book.active() == []
    assert book.all() == [resolved]


def test_a_fault_that_goes_before_its_hold_time_starts_anew(
    book: AlertBook, clock: FakeClock
) -> None:
    fault = FAULTS["oona_queue_depth"]
    book.evaluate(fault)
    clock.advance(119.0)
    book.evaluate(CALM)
    book.evaluate(fault)
    clock.advance(119.0)
    assert book.evaluate(fault) == []


def test_an_alert_that_comes_again_is_another_one(book: AlertBook, clock: FakeClock) -> None:
    fault = FAULTS["breaker_open"]
    [first] = book.evaluate(fault)
    book.evaluate(CALM)
    clock.advance(1.0)
    [second] = book.evaluate(fault)
    assert first.id != second.id


async def test_acknowledging_records_who_and_when_and_silencing_until_when(
    client: TestClient[Any, Any], world: World
) -> None:
    [alert] = world.context.alerts.evaluate(FAULTS["breaker_open"])
    path = f"/api/alerts/{alert.id}"
    async with client.post(f"{path}/ack", json={"by": "Ada"}, headers=BEARER) as response:
        seen = await response.json()
    assert (seen["state"], seen["acknowledged_by"]) == ("acknowledged", "Ada")
    assert seen["acknowledged_at"] == world.clock.time()
    async with client.post(f"{path}/silence", json={"seconds": 60}, headers=BEARER) as response:
        assert (await response.json())["silenced_until"] == world.clock.time() + 60
    async with client.post("/api/alerts/none/ack", headers=BEARER) as response:
        assert response.status == 404


async def test_signals_see_counters_grow_only_within_their_window(
    world: World, tmp_path: Any
) -> None:
    registry, clock = Registry(), world.clock
    violations = registry.counter("kasmina.isolation.violations", "text")
    violations.add(7)
    source = SignalSource(
        hub=world.context.hub, system=lambda: world.system, resumes=lambda: 0,
        state_dir=tmp_path, clock=clock,
    )  # fmt: skip
    assert gathered(source, registry).increases["kasmina.isolation.violations"] == 0.0
    violations.add(3)
    clock.advance(30.0)
    signals = gathered(source, registry)
    assert signals.increases["kasmina.isolation.violations"] == 3.0
    assert signals.disk_free is not None
    clock.advance(301.0)
    assert gathered(source, registry).increases["kasmina.isolation.violations"] == 0.0


def gathered(source: SignalSource, registry: Registry) -> Signals:
    return source.gather(Reading.of(registry))


async def test_a_spool_waits_for_as_long_as_it_does_not_shrink(world: World, tmp_path: Any) -> None:
    registry, clock = Registry(), world.clock
    depth = registry.gauge("oona.spool.depth", "text", ["producer"])
    source = SignalSource(
        hub=world.context.hub, system=lambda: world.system, resumes=lambda: 0,
        state_dir=tmp_path, clock=clock,
    )  # fmt: skip
    waited = []
    for value in (0.0, 3.0, 4.0, 4.0, 2.0, 2.0, 0.0):
        depth.set(value, producer="tolaria/r1")
        waited.append(gathered(source, registry).spools_waiting_s.get("tolaria/r1"))
        clock.advance(100.0)
    assert waited == [None, 0.0, 100.0, 200.0, 0.0, 100.0, None]


async def test_what_fired_and_who_has_seen_it_outlives_a_restart(
    clock: FakeClock, tmp_path: Any
) -> None:
    store = AlertStore(tmp_path / "alerts.sqlite")
    store.open()
    book = AlertBook(RULES, clock=clock)
    book.on_change = lambda alert: store.save(alert.to_json())
    [first] = book.evaluate(FAULTS["breaker_open"])
    book.acknowledge(first.id, "Ada")
    [ended] = book.evaluate(FAULTS["child_lost"])[:1]
    again = AlertBook(RULES, clock=clock)
    again.restore(store.load())
    assert [(alert.name, alert.state) for alert in again.active()] == [("child_lost", "firing")]
    assert [alert.to_json() for alert in again.all()] == [alert.to_json() for alert in book.all()]
    assert again.evaluate(FAULTS["child_lost"]) == []
    assert [alert.name for alert in again.evaluate(CALM)] == ["child_lost"]
    assert ended.acknowledged_by is None
    store.close()


async def test_hold_times_can_be_scaled_for_a_drill(clock: FakeClock) -> None:
    book = AlertBook(RULES, clock=clock, hold_scale=1 / 60)
    assert book.evaluate(FAULTS["tezzeret_conservative_mode"]) == []
    clock.advance(15.0)
    assert len(book.evaluate(FAULTS["tezzeret_conservative_mode"])) == 1
