"""`bench` and `drill`: the software against its own bars."""

import sys
from typing import Annotated

import typer

from esper_async.cli.failure import JSON_FLAG, reported, wants_json

commands = typer.Typer()


@commands.command()
@reported
def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Which ones; default: all.")] = None,
    mutants: Annotated[
        bool, typer.Option("--mutants", help="Also run the broken variants, which must fail.")
    ] = False,
    short: Annotated[bool, typer.Option("--short", help="The form that CI runs.")] = False,
) -> None:
    """Run the benchmarks, each against its baseline in the same run."""
    import subprocess

    flags = [("--mutants", mutants), ("--short", short), (JSON_FLAG, wants_json())]
    command = [sys.executable, "-P", "-m", "esper_async.study.bench", *(names or [])]
    command += [flag for flag, given in flags if given]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@commands.command()
@reported
def drill(
    names: Annotated[list[str] | None, typer.Argument(help="Which ones; default: all.")] = None,
) -> None:
    """Inject faults into a supervisor of its own, and show what was lost (nothing)."""
    import subprocess

    command = [sys.executable, "-P", "-m", "esper_async.drills", *(names or [])]
    command += [JSON_FLAG] if wants_json() else []
    raise typer.Exit(subprocess.run(command, check=False).returncode)
