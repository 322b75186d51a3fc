"""The library as one file: written from a state directory, or taken into one."""

from pathlib import Path

from esper_async.cli.failure import EXIT_WRONG_REQUEST, CommandError
from esper_async.cli.output import Output, number
from esper_async.urza import Library
from esper_async.urza.errors import ArchiveError


def export_library(state_dir: Path, file: Path, output: Output) -> None:
    """Write the library of a state directory to `file`; a supervisor may run meanwhile."""
    directory = state_dir / "urza"
    if not directory.is_dir():
        raise CommandError(
            f"there is no library in {state_dir}: a supervisor makes one when it first starts, "
            f"or name another --state-dir",
            EXIT_WRONG_REQUEST,
        )
    library = Library(directory, actor="command line")
    try:
        told = library.export_to(file)
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error}") from error
    finally:
        library.close()
    lines = [f"{file}: {_versions(told.assets)}, {number(told.size_bytes)} bytes"]
    if told.sealed:
        lines.append(
            f"{_versions(told.sealed)} stayed here: compiled for this installation, to be opened "
            f"under its key alone"
        )
    if told.lost:
        lines.append(f"{_versions(told.lost)} could not be read and stand aside for the forge")
    document = {
        "file": str(file),
        "assets": told.assets,
        "blobs": told.blobs,
        "size_bytes": told.size_bytes,
        "sealed": told.sealed,
        "lost": told.lost,
    }
    output.result(document, lines)


def import_library(state_dir: Path, file: Path, output: Output) -> None:
    """Take an archive into the library of a state directory, once all of it is verified."""
    if not file.is_file():
        raise CommandError(f"there is no file {file}", EXIT_WRONG_REQUEST)
    library = Library(state_dir / "urza", actor="command line")
    try:
        told = library.import_from(file)
    except ArchiveError as error:
        raise CommandError(f"nothing was taken in: {error}") from error
    except OSError as error:
        raise CommandError(f"{file} cannot be taken in: {error}; try again") from error
    finally:
        library.close()
    lines = [f"{_versions(told.assets)} taken in, {number(told.known)} were known here"]
    if told.sealed:
        lines.append(f"{_versions(told.sealed)} refused: compiled elsewhere, under another key")
    document = {"assets": told.assets, "known": told.known, "sealed": told.sealed}
    output.result({"file": str(file), **document}, lines)


def _versions(count: int) -> str:
    return "1 version" if count == 1 else f"{number(count)} versions"
