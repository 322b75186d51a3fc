"""What `drill alerts` prints: who said what of which alert, and which were left out and why."""

import json
from collections.abc import Sequence

from esper_async.drills.alert_drill import Told, not_provoked, provoke_alerts
from esper_async.drills.drill import Progress
from esper_async.nissa.prometheus import prometheus_program

ALERTS = "alerts"
"""The name by which the command line asks for this drill."""


def alerts(names: Sequence[str], tell: Progress, *, as_json: bool, mutation: str = "") -> int:
    """Hold the drill and print what came of it; return 0, or 1 if an alert failed.

    Raises UnknownAlertError, StageError.
    """
    rows = []
    for row in provoke_alerts(names, tell, mutation=mutation):
        rows.append(row)
        tell(f"  {row.alert} by {row.by}: {_words(row)}")
    left_out = {} if names else not_provoked(with_prometheus=_has_prometheus())
    ok = bool(rows) and all(row.ok for row in rows)
    if as_json:
        told = [row.to_json() for row in rows]
        document = {"ok": ok, "alerts": told, "not_provoked": left_out}
        print(json.dumps(document, indent=2))  # noqa: T201
    else:
        _show(rows)
        for alert, reason in left_out.items():
            print(f"{alert} was not provoked: {reason}")  # noqa: T201
    return 0 if ok else 1


def _has_prometheus() -> bool:
    return prometheus_program("prometheus") is not None


def _words(row: Told) -> str:
    if row.fired_s is None:
        return "did not fire"
    after = f"fired after {row.fired_s:.1f} s"
    if row.resolved_s is None:
        return f"{after}, did not resolve"
    return f"{after}, resolved after {row.resolved_s:.1f} s"


def _show(rows: Sequence[Told]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("ALERT", "BY", "FAULT"):
        table.add_column(heading)
    for heading in ("FIRED AFTER", "RESOLVED AFTER"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(row.alert, row.by, row.fault, _took(row.fired_s), _took(row.resolved_s))
    console = Console()
    if not console.is_terminal:
        console.width = 140
    console.print(table)


def _took(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s"
