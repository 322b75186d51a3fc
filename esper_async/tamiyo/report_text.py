"""A field report as a person reads it. Torch-free: the command line and the page show these lines.

What was not measured is said to be, and an observed change is called what it is.
"""

from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]
_QUANTITIES = (
    ("benefit_vs_twin", "benefit against the twin"),
    ("clean_contribution", "clean contribution"),
    ("dependence", "dependence (shown, never rewarded)"),
)
_WORDS = {
    "SUCCESS": "it helped",
    "NEUTRAL": "no effect could be told",
    "REGRESSION": "it did harm",
    "ABORTED": "it was undone by a rollback",
}


def report_text(report: Json) -> list[str]:
    """Return a field report as lines, the outcome first."""
    window = report["window"]
    outcome = report["outcome"]
    lines = [
        f"{outcome}: {_WORDS[outcome]}. {report['operation'].lower()} of {report['blueprint']} at "
        f"{report['site']} (seed {report['seed']}), boundaries {window['from']} to {window['to']}"
    ]
    if report.get("rule"):
        sure = report.get("confidence")
        told = "" if sure is None else f"; confidence {sure:.1%}"
        margin = report.get("margin")
        needed = "" if margin is None else f" of {margin:.4f}"
        lines.append(f"  because {report['rule']}{needed}{told}")
    lines += [f"  {words}: {_quantity(report.get(key))}" for key, words in _QUANTITIES]
    if report.get("cost"):
        lines.append(f"  cost: {_cost(report['cost'])}")
    if report["observed_change"]:
        changes = ", ".join(f"{name} {value:+.4f}" for name, value in _changes(report))
        lines.append(f"  observed change, the host's own learning included: {changes}")
    lines += [f"  mitigated: {words}" for words in report.get("mitigations") or ()]
    lines += [f"  lost: {_loser(loser)}" for loser in report["losers"]]
    lines.append(f"  decided by {report['policy']} {report['policy_version']}")
    return lines


def _quantity(told: Json | None) -> str:
    if told is None or any(told[name] is None for name in ("mean", "low", "high")):
        return "not measured"
    mark = ", estimated" if told.get("estimated") else ""
    unit = told.get("unit", "nats")
    return f"{told['mean']:+.4f} [{told['low']:+.4f}, {told['high']:+.4f}] {unit}{mark}"


def _cost(cost: Json) -> str:
    parts = [f"{cost['candidates']} candidates", f"{cost['shadow_passes']} shadow passes"]
    parts.append(f"{cost['parameters_kept']:,} parameters kept")
    return ", ".join(parts)


def _changes(report: Json) -> list[tuple[str, float]]:
    return sorted(report["observed_change"].items())


def _loser(loser: Json) -> str:
    gate = loser.get("failed_gate")
    why = f"failed {gate}" if gate else "was not the best"
    clean = _quantity(loser.get("clean_contribution"))
    return f"{loser['blueprint']} at {loser['site']} {why}, clean contribution {clean}"
