"""The runtime's exceptions, for callers that need to tell cases apart."""


class RuntimeFault(Exception):  # noqa: N818 - a fault may be expected, an open breaker say
    """Base of every error this package raises on purpose."""


class BreakerOpen(RuntimeFault):
    """A circuit breaker refused the call without making it.

    `retry_after_s` is how long, in seconds, a caller should wait before it asks again.
    """

    def __init__(self, name: str, retry_after_s: float, *, by_hand: bool = False) -> None:
        why = "held open by hand" if by_hand else "open after repeated failures"
        super().__init__(f"circuit breaker {name!r} is {why}; retry in {retry_after_s:.1f} s")
        self.name = name
        self.retry_after_s = retry_after_s


class ServiceEnded(RuntimeFault):
    """A service's coroutine returned although nobody asked it to stop."""


class StartTimeout(RuntimeFault):
    """A service did not report ready within its start deadline."""


class ChildStartError(RuntimeFault):
    """A child process could not be spawned; the message says why."""


class LinkBroken(RuntimeFault):
    """The link between a child and its parent no longer carries messages."""
