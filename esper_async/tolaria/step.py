"""The context manager that stands around one optimizer step of a loop of the caller's."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self


class Step:
    """One optimizer step on `batch`; one object serves them all.

    Args:
        done: told of the batch once the step has ended without an error.
    """

    def __init__(self, done: Callable[[Any], object]) -> None:
        self._done = done
        self.batch: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        batch, self.batch = self.batch, None
        if kind is None:
            self._done(batch)
