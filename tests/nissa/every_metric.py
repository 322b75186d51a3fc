"""A registry in which every metric of every part has a value."""

from docs.metric_list import declared
from esper_async.nissa.metrics import NissaMetrics
from esper_async.nissa.objectives import OBJECTIVES
from esper_async.nissa.slo import Accounts
from esper_async.runtime.metrics import Registry


def full_registry() -> Registry:
    """Make every metric as its part makes it, and give each a small value."""
    registry = declared()
    Accounts(OBJECTIVES, metrics=NissaMetrics(registry))
    for name in registry.names():
        metric = registry.find(name)
        assert metric is not None
        labels = {label: _value_of(name, label) for label in metric.label_names}
        kind = registry.kind_of(name)
        if kind == "counter":
            metric.add(1.0, **labels)
        elif kind == "gauge":
            metric.set(1.0, **labels)
        else:
            metric.observe(1.0, **labels)
    boundary = registry.find("tolaria.boundary.duration_ms")
    assert boundary is not None
    boundary.observe(1.0, run="r1", part="apply")
    return registry


def _value_of(name: str, label: str) -> str:
    """A value that the rules and objectives look for."""
    if name == "tolaria.boundary.duration_ms":
        return "total" if label == "part" else "r1"
    known = {"run": "r1", "rule": "told_by_a_part", "state": "backing_off", "topic": "decisions"}
    return known.get(label, "x")
