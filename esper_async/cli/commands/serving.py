"""`up`, `down`, `status` and `run`: the supervisor, and a run for it."""

from typing import Annotated

import typer

from esper_async.cli.app import Config, RunName, StateDir, client_of, output
from esper_async.cli.failure import EXIT_WRONG_REQUEST, CommandError, reported

commands = typer.Typer()


@commands.command()
@reported
def up(
    config: Config = None,
    run: Annotated[list[str] | None, typer.Option("--run", help="A run to submit.")] = None,
    state_dir: StateDir = None,
    host: Annotated[str | None, typer.Option(help="Where to listen.")] = None,
    port: Annotated[int | None, typer.Option(help="Where to listen; 0: any free one.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, as key=value.")
    ] = None,
    exit_when_done: Annotated[
        bool, typer.Option("--exit-when-done", help="Stop once every run has ended.")
    ] = False,
    no_run: Annotated[bool, typer.Option("--no-run", help="Submit no run.")] = False,
) -> None:
    """Start the supervisor in the foreground, with a view of what it does."""
    from esper_async.supervisor.settings import default_config, load_settings, parse_assignments
    from esper_async.tolaria.run_file import load_run

    if run and no_run:
        message = f"--no-run contradicts --run {run[0]}: give one of them"
        raise CommandError(message, EXIT_WRONG_REQUEST)
    overrides = parse_assignments(assignments or [])
    flags = {"supervisor.state_dir": state_dir, "http.host": host, "http.port": port}
    overrides |= {key: value for key, value in flags.items() if value is not None}
    settings = load_settings(config or default_config(), overrides)
    runs = [load_run(name) for name in run or []]
    wanted = None if no_run or runs else load_run(settings.supervisor.default_run)

    from esper_async.cli.up import up as start

    code = start(settings, runs, wanted, exit_when_done=exit_when_done, output=output())
    raise typer.Exit(code)


@commands.command()
@reported
def down(
    state_dir: StateDir = None,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 60.0,
) -> None:
    """Stop the supervisor: runs write a checkpoint, everything is flushed."""
    from esper_async.cli import running

    running.down(client_of(state_dir), output(), timeout_s=timeout_s)


@commands.command()
@reported
def status(
    state_dir: StateDir = None,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat every second.")] = False,
) -> None:
    """Show what is running and how healthy it is."""
    from esper_async.cli import running

    running.status(client_of(state_dir), output(), watch=watch)


@commands.command()
@reported
def run(
    name: RunName,
    state_dir: StateDir = None,
    follow: Annotated[bool, typer.Option("--follow", help="Stay until it has ended.")] = False,
) -> None:
    """Submit a training run to the supervisor that runs."""
    from esper_async.cli import running
    from esper_async.tolaria.run_file import load_run

    config = load_run(name).model_dump(mode="json")
    raise typer.Exit(running.submit(client_of(state_dir), output(), config, follow=follow))
