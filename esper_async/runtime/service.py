"""The shape of a service: one class, one coroutine."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from esper_async.runtime.breakers import Breakers


class Service(Protocol):
    """The supervisor side of a subsystem.

    `name` is unique. What it stands on is declared where the services are put together.
    """

    @property
    def name(self) -> str:
        """The subsystem's name, as shown in readiness and logs."""
        ...

    async def run(self, ready: Callable[[], None]) -> None:
        """Start, call `ready()` once, and run until cancelled; clean up in your own `finally`.

        Cancellation is delivered once, so awaiting in `finally` is allowed; returning without
        being cancelled counts as a failure. It may be called again after it has ended.
        """
        ...


@runtime_checkable
class HasDetail(Protocol):
    """A service with something to show in the readiness answer."""

    def detail(self) -> dict[str, object]:
        """Return JSON-able facts about the service; called often, so cheap and non-blocking."""
        ...


@runtime_checkable
class HasBreakers(Protocol):
    """A service whose breakers are shown in the readiness answer, and may be isolated by hand."""

    @property
    def breakers(self) -> Breakers:
        """The breakers through which the service calls what is outside its own memory."""
        ...
