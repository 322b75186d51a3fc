"""`python -m esper_async.drills`: hold drills, or a soak, and say by the exit code how it went."""

import argparse
import json
import sys
from collections.abc import Sequence

from esper_async.drills.alert_drill import UnknownAlertError
from esper_async.drills.alert_report import ALERTS, alerts
from esper_async.drills.drill import Outcome, UnknownDrillError, hold
from esper_async.drills.faults import FAULTS
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
            print(json.dumps(soaked.to_json(), indent=2))  # noqa: T201
            return 0 if soaked.ok else 1
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
        document = {"ok": ok, "drills": [outcome.to_json() for outcome in outcomes]}
        print(json.dumps(document, indent=2))  # noqa: T201
    else:
        _show(outcomes)
    return 0 if ok else 1


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
    parser.add_argument("--seed", type=int, default=0, help="of the soak's chance")
    parser.add_argument("--mutation", default="", help=argparse.SUPPRESS)
    parser.add_argument("--slack", type=float, default=1.0, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
