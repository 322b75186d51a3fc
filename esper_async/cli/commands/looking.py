"""`events`, `blueprints`, `kernels` and `report`: looking into the parts."""

from pathlib import Path
from typing import Annotated

import typer

from esper_async.cli.app import RunId, StateDir, client_of, output
from esper_async.cli.failure import reported

commands = typer.Typer()


@commands.command()
@reported
def events(
    query: Annotated[str, typer.Argument(help="Words to look for.")] = "",
    level: Annotated[str, typer.Option(help="info, warning, error or critical.")] = "info",
    source: Annotated[str, typer.Option(help="Only from this part.")] = "",
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    state_dir: StateDir = None,
) -> None:
    """Search the events, newest first."""
    from esper_async.cli import running

    columns = {"time": "TIME", "level": "LEVEL", "source": "SOURCE", "message": "MESSAGE"}
    running.show_table(
        client_of(state_dir), output(), "/api/events", columns,
        q=query, level=level, source=source, limit=limit,
    )  # fmt: skip


@commands.command()
@reported
def blueprints(
    tier: Annotated[
        str | None, typer.Option(help="Only this tier; production, if something else is asked.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="Only what fits spatial:CxHxW, sequence:TxD or feature:F.")
    ] = None,
    lowest_stage: Annotated[int | None, typer.Option(help="Only from this stage on.")] = None,
    highest_stage: Annotated[int | None, typer.Option(help="Only up to this stage.")] = None,
    risk: Annotated[float | None, typer.Option(help="Only up to this risk, 0 to 1.")] = None,
    parameters: Annotated[
        int | None, typer.Option(help="Only with at most so many parameters there.")
    ] = None,
    flops: Annotated[
        int | None, typer.Option(help="Only of at most so many FLOPs a sample there.")
    ] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="Only what was proved to train a batch in so long there.")
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Show the catalogue, or the blueprints that meet a query."""
    from esper_async.cli import running

    columns = {
        "id": "ID", "name": "NAME", "tier": "TIER", "stage": "STAGE", "risk": "RISK",
        "kinds": "SITES", "outcomes": "REPORTS",
    }  # fmt: skip
    running.show_table(
        client_of(state_dir), output(), "/api/blueprints", columns,
        tier=tier, interface=at, lowest_stage=lowest_stage, highest_stage=highest_stage,
        risk=risk, parameters=parameters, flops=flops, latency_ms=latency_ms,
    )  # fmt: skip


@commands.command()
@reported
def kernels(state_dir: StateDir = None) -> None:
    """Show the library: certificates and kernels, newest first."""
    from esper_async.cli import running

    columns = {
        "id": "ID", "kind": "KIND", "blueprint": "BLUEPRINT", "interface": "INTERFACE",
        "lifecycle": "STATE", "created_at": "MADE",
    }  # fmt: skip
    running.show_table(client_of(state_dir), output(), "/api/kernels", columns)


@commands.command()
@reported
def report(
    run: RunId,
    target: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file; default: ID.html here.")
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Write a run's story as one HTML file that needs nothing else."""
    from esper_async.cli.report import write_report
    from esper_async.cli.running import state_dir_of

    write_report(state_dir_of(state_dir), run, target, output())
