"""`check` and `doctor`: what will work, before it is tried."""

import typer

from esper_async.cli.app import Config, RunName, StateDir, output
from esper_async.cli.failure import reported

commands = typer.Typer()


@commands.command()
@reported
def check(name: RunName) -> None:
    """Try a run file out: its task, model, sites and loaders; every problem at once."""
    from esper_async.cli.check import check as try_out

    raise typer.Exit(try_out(name, output()))


@commands.command()
@reported
def doctor(config: Config = None, state_dir: StateDir = None) -> None:
    """Say what on this machine will or will not work, and the remedy."""
    from esper_async.cli.doctor import doctor as examine
    from esper_async.supervisor.settings import default_config, load_settings

    overrides = {} if state_dir is None else {"supervisor.state_dir": state_dir}
    settings = load_settings(config or default_config(), overrides)
    raise typer.Exit(examine(settings, output()))
