"""Finding the callable that a run file names, and making the task with it."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from esper_async.tolaria.task import Task, TaskError


def load_task(source: str, options: Mapping[str, Any], *, seed: int) -> Task:
    """Call `package.module:callable` or `path/to/file.py:callable` and return its task.

    `options` are its keyword arguments; `seed` is added where it takes one and none is given.

    Raises:
        TaskError: it cannot be found, called, or does not return a Task.
    """
    factory = _find(source)
    arguments = dict(options)
    accepted = _parameters(factory)
    if "seed" in accepted and "seed" not in arguments:
        arguments["seed"] = seed
    unknown = sorted(set(arguments) - accepted)
    if unknown and not _takes_anything(factory):
        raise TaskError(
            f"run.options: {source} takes no {', '.join(unknown)}; "
            f"it takes: {', '.join(sorted(accepted)) or 'nothing'}"
        )
    try:
        task = factory(**arguments)
    except TaskError:
        raise
    except Exception as error:
        raise TaskError(f"{source} raised {type(error).__name__}: {error}") from error
    if not isinstance(task, Task):
        raise TaskError(f"{source} returned {type(task).__name__}; it must return a Task")
    return task


def _find(source: str) -> Callable[..., Any]:
    place, _, name = source.rpartition(":")
    if not place:
        raise TaskError(f"run.task is {source!r}; it should be module:callable or file.py:callable")
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise TaskError(f"run.task: {place} has no callable {name!r}")
    return factory  # type: ignore[no-any-return]


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise TaskError(f"run.task: no module {error.name!r} can be imported") from error


def _load_file(path: Path) -> ModuleType:
    """Import a file under its own name, its folder first on the path, as `python file` does.

    A name that another module has already gets a prefix, so that it replaces nothing.
    """
    if not path.is_file():
        raise TaskError(f"run.task: there is no file {path}")
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = path.stem if _is_free(path) else f"esper_task_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise TaskError(f"run.task: {path} cannot be imported")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise TaskError(f"run.task: {path} raised {type(error).__name__}: {error}") from error
    return module


def _is_free(path: Path) -> bool:
    taken = sys.modules.get(path.stem)
    file = getattr(taken, "__file__", None)
    return taken is None or (file is not None and Path(file).resolve() == path.resolve())


def _parameters(factory: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(factory).parameters)


def _takes_anything(factory: Callable[..., Any]) -> bool:
    kinds = (parameter.kind for parameter in inspect.signature(factory).parameters.values())
    return inspect.Parameter.VAR_KEYWORD in kinds
