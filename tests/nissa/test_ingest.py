"""Telemetry in: what becomes a metric, what becomes an event, and what is refused and counted."""

import asyncio
import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_async.leyline import Alert, EventEnvelope, TelemetryLevel, TelemetryPacket
from esper_async.nissa.alert_rules import told_by_a_part
from esper_async.nissa.alerts import AlertBook, Rule
from esper_async.nissa.event_store import Event, Query
from esper_async.nissa.ingest import Ingest
from esper_async.nissa.stream import encode
from esper_async.nissa.teller import shown
from esper_async.nissa.told_alerts import ToldAlerts
from esper_async.oona.metrics import BusMetrics
from esper_async.runtime.clock import FakeClock
from esper_async.runtime.metrics import Registry
from tests.nissa.conftest import World
from tests.nissa.test_alerts import CALM

Points = list[tuple[str, float, dict[str, str]]]
_NUMBERS = itertools.count(1)


@pytest.fixture
def ingest(world: World) -> Ingest:
    context = world.context
    return Ingest(
        registry=context.registry, metrics=context.metrics, events=context.events,
        clock=context.clock,
    )  # fmt: skip


def packet(points: Points, run: str = "") -> TelemetryPacket:
    made = TelemetryPacket(version=1, packet_id=f"p{next(_NUMBERS)}", source="tolaria", run_id=run)
    for name, value, labels in points:
        made.points.add(name=name, value=value, labels=labels)
    return made


def exposed(world: World) -> str:
    return world.context.registry.exposition()[0].decode()


def dropped(world: World) -> dict[str, float]:
    lines = [line for line in exposed(world).splitlines() if "telemetry_dropped_total{" in line]
    return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in lines}


def test_names_become_prometheus_names_in_base_units(world: World, ingest: Ingest) -> None:
    ingest.take(
        packet(
            [
                ("tolaria.training.loss", 0.5, {}),
                ("tolaria.boundary.duration_ms", 5.0, {"part": "apply"}),
                ("kasmina.stage.transitions", 2.0, {"to": "BLENDING"}),
                ("kasmina.stage.transitions", 1.0, {"to": "BLENDING"}),
            ],
            run="r1",
        )
    )
    text = exposed(world)
    assert 'esper_tolaria_training_loss{run="r1"} 0.5' in text
    assert 'esper_tolaria_boundary_duration_seconds_sum{part="apply",run="r1"} 0.005' in text
    assert 'esper_kasmina_stage_transitions_total{from="",run="r1",to="BLENDING"} 3.0' in text
    assert dropped(world) == {}


@pytest.mark.parametrize(
    ("name", "value", "labels", "reason"),
    [
        ("tolaria.training.loss", float("nan"), {}, "not_finite"),
        ("stranger.metric", 1.0, {}, "name"),
        ("tolaria.Bad Name", 1.0, {}, "conflict"),
        ("tolaria.x", 1.0, {"Bad-Label": "x"}, "label_name"),
        ("tolaria.x", 1.0, {f"label{n}": "x" for n in range(9)}, "label_name"),
        ("tolaria.x", 1.0, {"text": "x" * 81}, "label_value"),
        ("kasmina.stage.transitions", -1.0, {}, "value"),
        ("nissa.stream.readers", 1.0, {}, "conflict"),
    ],
)
def test_what_is_wrong_is_refused_and_counted_by_reason(
    world: World, ingest: Ingest, name: str, value: float, labels: dict[str, str], reason: str
) -> None:
    ingest.take(packet([(name, value, labels), ("tolaria.training.loss", 1.0, {})]))
    assert dropped(world) == {reason: 1.0}
    assert 'esper_tolaria_training_loss{run=""} 1.0' in exposed(world)


def test_a_listed_name_has_its_own_labels_whoever_comes_first(world: World, ingest: Ingest) -> None:
    """Else one packet with odd labels would shut out all that come after it."""
    ingest.take(packet([("kasmina.alpha", 0.2, {"x": "b"}), ("kasmina.alpha", 0.1, {"seed": "a"})]))
    assert dropped(world) == {"label_name": 1.0}
    assert 'esper_kasmina_alpha{run="",seed="a"} 0.1' in exposed(world)


def test_a_packet_that_comes_again_counts_once(world: World, ingest: Ingest) -> None:
    labels = {"action": "CULL", "reason": "usual"}
    told = packet([("tamiyo.decision.total", 1.0, labels)], run="r1")
    ingest.take(told)
    ingest.take(told)
    ingest.take(packet([("tamiyo.decision.total", 1.0, labels)], run="r1"))
    counted = 'esper_tamiyo_decision_total{action="CULL",reason="usual",run="r1"} 2.0'
    assert counted in exposed(world)


def test_one_policy_decides_in_a_run_at_a_time(world: World, ingest: Ingest) -> None:
    def decides(policy: str, run: str) -> None:
        labels = {"policy": policy, "version": "1"}
        ingest.take(packet([("tamiyo.policy.version", 1.0, labels)], run=run))

    decides("gnn", "r1")
    decides("gnn", "r2")
    for _ in range(2):
        decides("static", "r1")
    told = [line for line in exposed(world).splitlines() if "policy_version{" in line]
    assert told == [
        'esper_tamiyo_policy_version{policy="gnn",run="r2",version="1"} 1.0',
        'esper_tamiyo_policy_version{policy="static",run="r1",version="1"} 1.0',
    ]


def test_the_gauges_of_a_seed_end_with_it(world: World, ingest: Ingest) -> None:
    def boundary(**alphas: float) -> TelemetryPacket:
        census: Points = [("kasmina.seeds.active", 1.0, {"stage": "TRAINING"})]
        return packet(
            census + [("kasmina.alpha", alpha, {"seed": seed}) for seed, alpha in alphas.items()],
            run="r1",
        )

    ingest.take(boundary(s1=0.5, s2=1.0))
    ingest.take(boundary(s2=1.0))
    assert 'seed="s1"' not in exposed(world)
    assert 'esper_kasmina_alpha{run="r1",seed="s2"} 1.0' in exposed(world)
    ingest.take(boundary(s1=0.25))
    assert 'esper_kasmina_alpha{run="r1",seed="s1"} 0.25' in exposed(world)
    ingest.forget_run("r1")
    assert 'run="r1"' not in exposed(world)
    ingest.take(boundary(s1=0.125))
    assert 'esper_kasmina_alpha{run="r1",seed="s1"} 0.125' in exposed(world)


def test_a_flood_of_label_values_and_of_names_stays_bounded(world: World, ingest: Ingest) -> None:
    ingest.take(packet([("kasmina.alpha", 1.0, {"seed": f"s{n}"}) for n in range(5_000)]))
    ingest.take(packet([(f"tolaria.flood{n}.x", 1.0, {}) for n in range(5_000)]))
    samples = [line for line in exposed(world).splitlines() if not line.startswith("#")]
    assert len(samples) < 1_000
    assert 'esper_kasmina_alpha{run="other",seed="other"}' in exposed(world)
    assert 'esper_runtime_labels_folded_total{metric="kasmina.alpha"} 4800.0' in exposed(world)
    assert dropped(world) == {"cardinality": 4_700.0}


def test_events_are_stored_and_run_records_are_left_to_the_hub(
    world: World, ingest: Ingest
) -> None:
    told = packet([], run="r1")
    told.events.add(
        name="run.rollback", created_at=5.0, message="not finite",
        level=TelemetryLevel.TELEMETRY_LEVEL_ERROR, fields={"to": "3"},
    )  # fmt: skip
    told.events.add(name="run.record", fields={"record": "{}"})
    ingest.take(told)
    ingest.take(told)
    world.context.events.flush()
    [event] = world.context.events.search(Query())
    assert (event["level"], event["source"], event["run"]) == ("error", "tolaria", "r1")
    assert event["fields"] == {"to": "3"}


async def test_a_message_that_is_no_telemetry_is_counted(world: World, ingest: Ingest) -> None:
    await ingest.handle(EventEnvelope(), EventEnvelope())
    assert dropped(world) == {"not_telemetry": 1.0}


def test_five_thousand_packets_a_second_can_be_taken(world: World, ingest: Ingest) -> None:
    import time

    points: Any = [("tolaria.training.loss", 0.5, {}), ("kasmina.alpha", 0.1, {"seed": "s1"})]
    one = packet(points, run="r1")
    ingest.take(one)
    started = time.process_time()
    for _ in range(2_000):
        ingest.take(one)
    assert 2_000 / (time.process_time() - started) > 5_000


def test_a_childs_bus_metrics_add_to_the_supervisors_own(world: World, ingest: Ingest) -> None:
    own = BusMetrics(world.context.registry)
    own.published.add(3, topic="alerts")
    ingest.take(packet([("oona.published", 2.0, {"topic": "alerts"})]))
    ingest.take(packet([("oona.spool.depth", 4.0, {"producer": "tolaria/r1"})]))
    ingest.take(packet([("oona.publish.latency_ms", 3.0, {"topic": "alerts"})]))
    text = exposed(world)
    assert 'esper_oona_published_total{topic="alerts"} 5.0' in text
    assert 'esper_oona_spool_depth{producer="tolaria/r1"} 4.0' in text
    assert 'esper_oona_publish_latency_seconds_sum{topic="alerts"} 0.003' in text
    assert dropped(world) == {}


_TEXTS = st.text(max_size=20) | st.sampled_from(["tolaria.training.loss", "kasmina.alpha", "run"])
_LEVELS = st.integers(-(2**31), 2**31 - 1)
_POINTS = st.lists(st.tuples(_TEXTS, st.floats(), st.dictionaries(_TEXTS, _TEXTS, max_size=3)))
_EVENTS = st.lists(st.tuples(_TEXTS, _LEVELS, st.floats(), st.dictionaries(_TEXTS, _TEXTS)))


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(points=_POINTS, events=_EVENTS, created_at=st.floats(), run=_TEXTS)
def test_no_packet_can_break_what_takes_stores_or_shows_it(
    world: World, points: Points, events: list[Any], created_at: float, run: str
) -> None:
    told: list[Event] = []
    context = world.context
    ingest = Ingest(
        registry=Registry(), metrics=context.metrics, events=context.events, clock=context.clock,
        on_event=told.append,
    )  # fmt: skip
    made = packet(points, run)
    made.created_at = created_at
    for name, level, at, fields in events:
        made.events.add(name=name, level=level, created_at=at, fields=fields)  # type: ignore[arg-type]
    ingest.take(made)
    context.events.flush()
    for event in told:
        encode(shown(event))


@given(level=_LEVELS, value=st.floats(), texts=st.lists(_TEXTS, min_size=4, max_size=4))
@settings(deadline=None, max_examples=40)
def test_no_alert_of_a_part_can_break_what_judges_or_shows_it(
    level: int, value: float, texts: list[str]
) -> None:
    told = ToldAlerts(clock=FakeClock())
    alert_id, name, summary, label = texts
    message = Alert(
        version=1, alert_id=alert_id, name=name, summary=summary, value=value, threshold=value,
        level=level, labels={label: label}, routes=[label],  # type: ignore[arg-type]
    )  # fmt: skip
    asyncio.run(told.handle(message, EventEnvelope()))
    book = AlertBook([Rule("told_by_a_part", "error", 0.0, told_by_a_part)], clock=FakeClock())
    for alert in book.evaluate(replace(CALM, told=told.findings())):
        encode(alert.to_json())
