"""Is everything all right? The same verdict as on the page, in words for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Kind = Literal["good", "warn", "bad"]
TITLES: dict[Kind, str] = {
    "good": "all is well",
    "warn": "worth a look",
    "bad": "something is wrong",
}
MARKS: dict[Kind, str] = {"good": "✓", "warn": "!", "bad": "✕"}
_RANK: dict[Kind, int] = {"bad": 2, "warn": 1, "good": 0}
_STARTING = ("starting", "waiting")


def verdict(
    services: Mapping[str, Mapping[str, Any]],
    alerts: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
) -> tuple[Kind, list[tuple[Kind, str]]]:
    """Return how things stand and every reason to worry, the gravest first."""
    found: list[tuple[Kind, str]] = []
    for name, facts in services.items():
        if facts["state"] != "ready":
            kind: Kind = "warn" if facts["state"] in _STARTING else "bad"
            error = f": {facts['error']}" if facts.get("error") else ""
            found.append((kind, f"{name} is {facts['state'].replace('_', ' ')}{error}"))
    for alert in alerts:
        seen = alert["state"] == "acknowledged"
        by = f" Seen by {alert['acknowledged_by']}." if seen else ""
        mild = seen or alert["level"] == "warning"
        found.append(("warn" if mild else "bad", f"{alert['name']}: {alert['summary']}{by}"))
    for run in runs:
        if run["state"] == "failed":
            found.append(("bad", f"{run['name']} failed: {run.get('error') or 'no reason given'}"))
    found.sort(key=lambda reason: -_RANK[reason[0]])
    return (found[0][0] if found else "good"), found
