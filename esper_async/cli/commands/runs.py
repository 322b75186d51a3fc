"""`runs ...`: list the runs, look at one, steer it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from esper_async.cli.app import RunId, StateDir, client_of, output
from esper_async.cli.failure import reported

commands = typer.Typer()
runs_app = typer.Typer(help="Runs: list them, look at one, steer it.", invoke_without_command=True)
commands.add_typer(runs_app, name="runs")


@runs_app.callback()
@reported
def runs(context: typer.Context, state_dir: StateDir = None) -> None:
    """List the runs."""
    context.obj = state_dir
    if context.invoked_subcommand is None:
        from esper_async.cli import running

        running.list_runs(client_of(state_dir), output())


@runs_app.command("show")
@reported
def runs_show(context: typer.Context, run_id: RunId, state_dir: StateDir = None) -> None:
    """Show a run, its seeds and its final table."""
    from esper_async.cli import running

    running.show_run(client_of(state_dir or context.obj), output(), run_id)


def _steer(state_dir: Path | None, run_id: str, deed: str, body: Any = None) -> None:
    from esper_async.cli import running

    running.steer_run(client_of(state_dir), output(), run_id, deed, body)


@runs_app.command("pause")
@reported
def runs_pause(context: typer.Context, run_id: RunId, state_dir: StateDir = None) -> None:
    """Hold a run where it is."""
    _steer(state_dir or context.obj, run_id, "pause")


@runs_app.command("resume")
@reported
def runs_resume(context: typer.Context, run_id: RunId, state_dir: StateDir = None) -> None:
    """Let a paused run go on."""
    _steer(state_dir or context.obj, run_id, "resume")


@runs_app.command("stop")
@reported
def runs_stop(context: typer.Context, run_id: RunId, state_dir: StateDir = None) -> None:
    """End a run for good, keeping what it has."""
    _steer(state_dir or context.obj, run_id, "stop")


@runs_app.command("rollback")
@reported
def runs_rollback(
    context: typer.Context,
    run_id: RunId,
    boundary: Annotated[
        int | None, typer.Option("--to", help="The boundary; default: the last checkpoint.")
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Send a run back to an earlier boundary."""
    body = None if boundary is None else {"to_boundary": boundary}
    _steer(state_dir or context.obj, run_id, "rollback", body)


@runs_app.command("emergency")
@reported
def runs_emergency(
    context: typer.Context,
    run_id: RunId,
    level: Annotated[
        str, typer.Option(help="critical (freeze), severe or major (go back), minor (slow down).")
    ],
    reason: Annotated[str, typer.Option(help="What is the matter; the journal keeps it.")],
    state_dir: StateDir = None,
) -> None:
    """Freeze a run at once, send it back, or slow it down."""
    body = {"level": level.lower(), "reason": reason}
    _steer(state_dir or context.obj, run_id, "emergency", body)


@runs_app.command("risk")
@reported
def runs_risk(context: typer.Context, run_id: RunId, state_dir: StateDir = None) -> None:
    """Score a run's risk predictions against what happened; no supervisor is needed."""
    from esper_async.cli.risk import risk
    from esper_async.cli.running import state_dir_of

    risk(state_dir_of(state_dir or context.obj), run_id, output())
