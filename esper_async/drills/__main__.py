"""`python -m esper_async.drills`: drills, a soak, or kills; the exit code says how they went."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from esper_async.drills.alert_drill import UnknownAlertError
from esper_async.drills.alert_report import ALERTS, alerts
from esper_async.drills.drill import Outcome, UnknownDrillError, hold
from esper_async.drills.faults import FAULTS
from esper_async.drills.kills import kill_at_random
from esper_async.drills.soak import soak
from esper_async.drills.stage import StageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, 1 if something was lost or came too late, 2 for a wrong request."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.names[:1] == [ALERTS]:
            return alerts(asked.names[1:], _tell, as_json=asked.json, mutation=asked.mutation)
        if asked.soak is not None:
            soaked = soak(asked.soak, _tell, seed=asked.seed, mutation=asked.mutation)
            return _said(soaked.to_json())
        if asked.kills is not None:
            killed = kill_at_random(asked.kills, _tell, seed=asked.seed, mutation=asked.mutation)
            return _said(killed.to_json())
        outcomes = []
        for outcome in hold(asked.names, _tell, mutation=asked.mutation, slack=asked.slack):
            outcomes.append(outcome)
            if not asked.json:
                _tell(f"  {_words(outcome)}")
    except (UnknownDrillError, UnknownAlertError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    except StageError as error:
        print(f"the drill could not be held: {error}", file=sys.stderr)  # noqa: T201
        return 1
    ok = all(outcome.ok for outcome in outcomes)
    if asked.json:
        return _said({"ok": ok, "drills": [outcome.to_json() for outcome in outcomes]})
    _show(outcomes)
    return 0 if ok else 1


def _said(document: dict[str, Any]) -> int:
    print(json.dumps(document, indent=2))  # noqa: T201
    return 0 if document["ok"] else 1


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def _words(outcome: Outcome) -> str:
    took = "no recovery" if outcome.recovery_s is None else f"{outcome.recovery_s:.2f} s"
    late = "".join(f"; late: {each}" for each in outcome.late)
    return f"{took}; lost: {'; '.join(outcome.lost) or 'nothing'}{late}"


def _show(outcomes: Sequence[Outcome]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading, side in (("DRILL", "left"), ("RECOVERY", "right"), ("LIMIT", "right")):
        table.add_column(heading, justify="left" if side == "left" else "right")
    table.add_column("LOST OR LATE")
    for each in outcomes:
        table.add_row(
            each.name,
            "none" if each.recovery_s is None else f"{each.recovery_s:.2f} s",
            "" if each.limit_s is None else f"{each.limit_s:g} s",
            "; ".join((*each.lost, *each.late)) or "nothing",
        )
    console = Console()
    if not console.is_terminal:
        console.width = 120
    console.print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m esper_async.drills",
        description="Inject faults into a supervisor in a throw-away state directory.",
        epilog=f"drills: {', '.join(FAULTS)}. `{ALERTS} [ALERT ...]` provokes the shipped alerts.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones; all if none is given")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="faults at random instead")
    parser.add_argument("--kills", type=int, metavar="NUMBER", help="SIGKILLs at random instead")
    parser.add_argument("--seed", type=int, default=0, help="of the chance in these")
    parser.add_argument("--mutation", default="", help=argparse.SUPPRESS)
    parser.add_argument("--slack", type=float, default=1.0, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
