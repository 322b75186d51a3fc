"""What goes wrong becomes one message and an exit code; a traceback only when asked for."""

import functools
import json
import os
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

P = ParamSpec("P")
T = TypeVar("T")
EXIT_FAILED = 1
EXIT_WRONG_REQUEST = 2
EXIT_INTERRUPTED = 130
JSON_FLAG = "--json"
TRACEBACK_VARIABLE = "ESPER_TRACEBACK"


class CommandError(Exception):
    """A command cannot be carried out; the message says why and what to do."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def wants_json() -> bool:
    """Whether this process was asked for JSON; the flag may stand anywhere on its command line."""
    return JSON_FLAG in sys.argv[1:]


def complain(message: str) -> None:
    """Write an error to stderr."""
    print(f"esper-supervisor: {message}", file=sys.stderr)  # noqa: T201


def reported(command: Callable[P, T]) -> Callable[P, T]:
    """Turn a command's expected errors into a message and an exit code.

    Whoever asked for JSON gets the message as a document, too.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(EXIT_FAILED) from None
        except Exception as error:
            code = _exit_code(error)
            if code is None or os.environ.get(TRACEBACK_VARIABLE):
                raise
            complain(str(error))
            if wants_json():
                print(json.dumps({"error": str(error), "exit_code": code}))  # noqa: T201
            raise typer.Exit(code) from None

    return run


def _exit_code(error: Exception) -> int | None:
    """Return the exit code of an expected error, None for a defect of ours."""
    own = getattr(error, "exit_code", None)
    if isinstance(own, int):
        return own
    if type(error).__name__ == "ConfigurationError":
        return EXIT_WRONG_REQUEST
    return None
