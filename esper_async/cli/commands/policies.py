"""`policies ...`: which learned policies there are, which decides, and any earlier one again."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from esper_async.cli.app import StateDir, output
from esper_async.cli.failure import reported

commands = typer.Typer()
policies_app = typer.Typer(
    help="Learned policies: list them, look at one, let another decide.",
    invoke_without_command=True,
)
commands.add_typer(policies_app, name="policies")

PolicyId = Annotated[str, typer.Argument(help="The policy's id, as `policies` shows it.")]
Earlier = Annotated[
    str | None, typer.Argument(help="Which earlier one; default: the one before the active.")
]


@policies_app.callback()
@reported
def policies(context: typer.Context, state_dir: StateDir = None) -> None:
    """List the learned policies, newest first."""
    context.obj = state_dir
    if context.invoked_subcommand is None:
        from esper_async.cli.policies import list_policies
        from esper_async.cli.running import state_dir_of

        list_policies(state_dir_of(state_dir), output())


@policies_app.command("show")
@reported
def policies_show(context: typer.Context, policy: PolicyId, state_dir: StateDir = None) -> None:
    """Show what a policy came from, and the record of its validation."""
    from esper_async.cli.policies import show_policy
    from esper_async.cli.running import state_dir_of

    show_policy(state_dir_of(state_dir or context.obj), policy, output())


@policies_app.command("history")
@reported
def policies_history(context: typer.Context, state_dir: StateDir = None) -> None:
    """Show what happened to the policies, newest first."""
    from esper_async.cli.policies import show_history
    from esper_async.cli.running import state_dir_of

    show_history(state_dir_of(state_dir or context.obj), output())


@policies_app.command("judge")
@reported
def policies_judge(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="As `python -m esper_async.simic.teach` wrote it.")],
    gate: Annotated[
        Path | None, typer.Option(help="The fresh runs that it must be no worse in (TOML).")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Runs at a time; default: one a core.")
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Judge a graph policy, and publish it if it is sound and no worse in fresh runs."""
    from esper_async.cli.judge import judge_file
    from esper_async.cli.running import state_dir_of

    root = state_dir_of(state_dir or context.obj)
    raise typer.Exit(judge_file(root, file, output(), gate=gate, workers=workers))


@policies_app.command("activate")
@reported
def policies_activate(context: typer.Context, policy: PolicyId, state_dir: StateDir = None) -> None:
    """Let a policy that has passed decide in runs that begin from now on."""
    from esper_async.cli.policies import activate_policy
    from esper_async.cli.running import state_dir_of

    activate_policy(state_dir_of(state_dir or context.obj), policy, output())


@policies_app.command("rollback")
@reported
def policies_rollback(
    context: typer.Context,
    policy: Earlier = None,
    of: Annotated[
        Literal["learned", "gnn"], typer.Option(help="As run files call such policies.")
    ] = "learned",
    state_dir: StateDir = None,
) -> None:
    """Put back the policy before the active one, or an earlier one by its id."""
    from esper_async.cli.policies import activate_policy, roll_back_policy
    from esper_async.cli.running import state_dir_of

    root = state_dir_of(state_dir or context.obj)
    if policy is None:
        roll_back_policy(root, output(), of=of)
    else:
        activate_policy(root, policy, output())
