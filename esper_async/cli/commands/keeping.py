"""`backup`, `restore` and `library ...`: into a file, and out of it."""

from pathlib import Path
from typing import Annotated

import typer

from esper_async.cli.app import StateDir, output
from esper_async.cli.failure import reported

commands = typer.Typer()
library_app = typer.Typer(help="The library as one archive.", no_args_is_help=True)
commands.add_typer(library_app, name="library")
ArchiveFile = Annotated[Path, typer.Argument(help="The archive.")]


@commands.command()
@reported
def backup(
    file: Annotated[Path, typer.Argument(help="Where to write it (.tar.gz).")],
    state_dir: StateDir = None,
) -> None:
    """Copy the state directory into one file, also while a supervisor uses it."""
    from esper_async.cli.keeping import back_up
    from esper_async.cli.running import state_dir_of

    back_up(state_dir_of(state_dir), file, output())


@commands.command()
@reported
def restore(
    file: Annotated[Path, typer.Argument(help="A backup.")],
    state_dir: StateDir = None,
) -> None:
    """Make a new state directory from a backup; `up` on it goes on with its runs."""
    from esper_async.cli.keeping import restore as put_back
    from esper_async.cli.running import state_dir_of

    put_back(file, state_dir_of(state_dir), output())


@library_app.command("export")
@reported
def library_export(file: ArchiveFile, state_dir: StateDir = None) -> None:
    """Write the library to one archive: certificates, blueprints, and what was measured."""
    from esper_async.cli.library import export_library
    from esper_async.cli.running import state_dir_of

    export_library(state_dir_of(state_dir), file, output())


@library_app.command("import")
@reported
def library_import(file: ArchiveFile, state_dir: StateDir = None) -> None:
    """Take an archive in, once all of it is verified; what is known here stays as it is."""
    from esper_async.cli.library import import_library
    from esper_async.cli.running import state_dir_of

    import_library(state_dir_of(state_dir), file, output())
