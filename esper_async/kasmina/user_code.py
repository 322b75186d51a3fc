"""Whose doing an exception is: code that the user supplied is named when it raises."""

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

import torch


class UserCodeError(RuntimeError):
    """Code that the user supplied raised; the cause is what it raised.

    Args:
        what: the field or argument by which it was supplied: `loss`, `metrics['hits']`.
        error: what it raised.
        where: when that was, for the end of the message.
    """

    def __init__(self, what: str, error: BaseException, where: str = "") -> None:
        super().__init__(f"{what} raised {type(error).__name__}: {error}{where}")
        self.what = what
        self.__cause__ = error

    def of_task(self, steps: int, epochs: int) -> "UserCodeError":
        """Return the same, of a field of a Task, in a run that had gone so far."""
        assert self.__cause__ is not None
        where = f" (after {steps} steps, {epochs} whole epochs)"
        return UserCodeError(f"Task.{self.what}", self.__cause__, where)


# Memory is short because of the whole process: whoever asked last is not to blame.
_NOBODYS_DOING = (UserCodeError, MemoryError, torch.OutOfMemoryError)


class blaming:  # noqa: N801 - a context manager, read as a verb
    """Let what a block raises be a `UserCodeError` that names `what`, except for `besides`."""

    __slots__ = ("_besides", "_what")

    def __init__(self, what: str, *, besides: tuple[type[Exception], ...] = ()) -> None:
        self._what = what
        self._besides = besides

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and _is_to_blame(error, self._besides):
            raise UserCodeError(self._what, error)


def blame(what: str, error: Exception) -> None:
    """Raise a `UserCodeError` for an error of user code; return if it is nobody's doing.

    It is `blaming` for where every step goes by: a `try` costs nothing until something is raised.
    """
    if _is_to_blame(error):
        raise UserCodeError(what, error)


def _is_to_blame(error: Exception, besides: tuple[type[Exception], ...] = ()) -> bool:
    return not isinstance(error, _NOBODYS_DOING + besides)


def batches_of(loader: Iterable[Any], what: str) -> Iterator[Any]:
    """Iterate a loader, called `what` when it raises."""
    with blaming(what):
        iterator = iter(loader)
    while True:
        try:  # costs a batch nothing, where a context manager would
            batch = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            blame(what, error)
            raise
        yield batch
