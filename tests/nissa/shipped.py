"""What is shipped for Prometheus and Grafana: its files, its queries, the metrics it asks for."""

import json
import re
from pathlib import Path

SHIPPED = Path(__file__).parents[2] / "config" / "nissa"
RULE_FILES = [SHIPPED / "rules" / name for name in ("recording.yml", "alerts.yml")]
DASHBOARDS = sorted((SHIPPED / "grafana").glob("*.json"))
VARIABLES = {"$instance": ".*", "$run": ".*", "$__rate_interval": "5m"}
_LABEL_VALUES = re.compile(r"label_values\((?P<metric>\w+), (?P<label>\w+)\)")
_SERIES = re.compile(r"_(bucket|count|sum)$")


def queries() -> list[str]:
    """The queries of the dashboards, with values for their variables."""
    found = []
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            found += [target["expr"] for target in panel["targets"]]
    return [_resolved(query) for query in found]


def chosen_from() -> set[tuple[str, str]]:
    """What the dashboards' variables offer: a label of a metric, (metric, label)."""
    found = set()
    for path in DASHBOARDS:
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                asked = _LABEL_VALUES.fullmatch(variable["query"])
                assert asked is not None, f"{path.name}: {variable['query']}"
                found.add((asked["metric"], asked["label"]))
    return found


def asked_names() -> set[str]:
    """Every metric that rules and dashboards ask for, as it stands there."""
    rules = "".join(path.read_text() for path in RULE_FILES)
    text = re.sub("#.*", "", rules) + "\n".join(queries())
    found = set(re.findall(r"(?<![\w:])esper_[a-z0-9_]+", re.sub(r'"[^"]*"', "", text)))
    own = set(re.findall(r"(?:- name|- alert): (\w+)", rules))  # of groups and alerts
    return found - own | {metric for metric, _ in chosen_from()}


def asked_metrics() -> set[str]:
    """The same by the names of the metrics: a histogram's series are one."""
    return {_SERIES.sub("", name) if _is_of_histogram(name) else name for name in asked_names()}


def _is_of_histogram(name: str) -> bool:
    return re.search(r"_seconds_(bucket|count|sum)$", name) is not None


def _resolved(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query
