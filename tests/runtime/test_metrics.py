"""Telemetry names become Prometheus names, values base units, and labels stay bounded."""

import pytest

from esper_async.runtime.metric_changes import MetricChanges
from esper_async.runtime.metrics import OTHER, Registry, prometheus_name


@pytest.mark.parametrize(
    ("name", "kind", "exposed"),
    [
        ("oona.publish.latency_ms", "histogram", "esper_oona_publish_latency_seconds"),
        ("oona.publish.dropped", "counter", "esper_oona_publish_dropped_total"),
        ("tamiyo.decision.total", "counter", "esper_tamiyo_decision_total"),
        ("urza.assets", "gauge", "esper_urza_assets"),
    ],
)
def test_names_follow_prometheus(name: str, kind: str, exposed: str) -> None:
    assert prometheus_name(name, kind) == exposed  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["latency", "Oona.depth", "oona.queue-depth", "oona..x", ""])
def test_a_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="telemetry name"):
        prometheus_name(name)


def test_milliseconds_go_in_and_seconds_come_out() -> None:
    registry = Registry()
    registry.gauge("tolaria.epoch.duration_ms", "one epoch").set(1_500)
    registry.counter("oona.publish.dropped", "drops", ["lane"]).add(2, lane="normal")
    text = registry.exposition()[0].decode()
    assert "esper_tolaria_epoch_duration_seconds 1.5" in text
    assert 'esper_oona_publish_dropped_total{lane="normal"} 2.0' in text


def test_label_combinations_past_the_bound_are_counted_as_other() -> None:
    registry = Registry(label_limit=2)
    metric = registry.counter("karn.blueprint.requests", "requests", ["tier"])
    for tier in ("a", "b", "c", "d", "a"):
        metric.add(tier=tier)
    text = registry.exposition()[0].decode()
    assert f'{{tier="{OTHER}"}} 2.0' in text
    assert '{tier="a"} 2.0' in text
    assert '{tier="c"}' not in text


def test_one_name_is_one_metric_and_one_kind() -> None:
    registry = Registry()
    assert registry.gauge("urza.assets", "n") is registry.gauge("urza.assets", "n")
    with pytest.raises(ValueError, match="already registered as a gauge"):
        registry.counter("urza.assets", "n")


def test_changes_are_told_once_counters_by_what_was_added_and_gauges_by_their_value() -> None:
    registry = Registry(observations_kept=2)
    sent = registry.counter("oona.published", "sent", ["topic"])
    depth = registry.gauge("oona.wait_ms", "wait")
    took = registry.histogram("oona.took_ms", "took", ["topic"])
    changes = MetricChanges(registry)
    assert changes.pending() == []
    for value in (1.0, 2.0, 3.0):  # the newest are kept
        took.observe(value, topic="a")
    observed = [("oona.took_ms", 2.0, {"topic": "a"}), ("oona.took_ms", 3.0, {"topic": "a"})]
    assert changes.pending() == observed
    took.observe(4.0, topic="a")
    changes.told(changes.pending()[:1])
    assert changes.pending() == [("oona.took_ms", 4.0, {"topic": "a"})]
    changes.told(changes.pending())
    assert changes.pending() == []
    sent.add(2, topic="a")
    depth.set(1_500.0)
    first = changes.pending()
    assert first == [("oona.published", 2.0, {"topic": "a"}), ("oona.wait_ms", 1_500.0, {})]
    assert changes.pending() == first  # nobody was told yet
    changes.told(first)
    assert changes.pending() == []
    sent.add(topic="a")
    depth.set(0.0)
    assert changes.pending() == [("oona.published", 1.0, {"topic": "a"}), ("oona.wait_ms", 0.0, {})]
