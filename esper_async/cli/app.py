"""The application that commands are put on, and what several of them take."""

from pathlib import Path
from typing import Annotated, Any

import typer

from esper_async.cli.failure import wants_json
from esper_async.cli.output import Output

app = typer.Typer(
    name="esper-supervisor",
    help="Grow a PyTorch model while it trains. `up` starts everything.",
    epilog="--json, anywhere, gives one JSON document instead of text. Exit codes: 0 done, "
    "1 failed or something was lost, 2 the request was wrong, 3 an essential service failed for "
    "good, 130 interrupted. ESPER_TRACEBACK=1 shows tracebacks.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

StateDir = Annotated[
    Path | None, typer.Option("--state-dir", help="Where the supervisor keeps its state.")
]
Config = Annotated[Path | None, typer.Option("--config", help="A settings file (TOML).")]
RunName = Annotated[str, typer.Argument(help="A run file, or the name of one that comes along.")]
RunId = Annotated[str, typer.Argument(help="The run's id, as `runs` shows it.")]


def output() -> Output:
    """Return where results go, in the form that was asked for."""
    return Output(as_json=wants_json())


def client_of(state_dir: Path | None) -> Any:
    """Return a client of the supervisor that runs. Raises CommandError: none does."""
    from esper_async.cli.client import Client
    from esper_async.cli.running import state_dir_of

    return Client.of(state_dir_of(state_dir))


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("esper-async")
        except PackageNotFoundError:
            number = "not installed"
        output().result({"version": number}, [f"esper-supervisor {number}"])
        raise typer.Exit


@app.callback()
def supervisor(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Grow a PyTorch model while it trains. `up` starts everything."""
