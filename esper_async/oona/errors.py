"""What a caller of the bus needs to tell apart."""

import redis.exceptions

FAULTS = (redis.exceptions.RedisError, OSError, TimeoutError)
"""What a Redis that is away, slow, restarting or refusing raises."""


class ServerStartError(RuntimeError):
    """The embedded server did not start; the message says why and what to do."""


class BusUnavailable(ConnectionError):  # noqa: N818 - named like `BreakerOpen`, a state
    """Redis did not take the message; it was not durable and is not on its way."""


class Backpressure(RuntimeError):  # noqa: N818 - the name the design gives it
    """The topic is at its bound: required groups have `depth` entries still to acknowledge."""

    def __init__(self, topic: str, depth: int, bound: int) -> None:
        super().__init__(
            f"{topic} is {depth} deep, the bound is {bound}; "
            "publish later, or pass a deadline to wait until it drains"
        )
        self.topic = topic
        self.depth = depth


class SpoolBusy(RuntimeError):  # noqa: N818 - a state, like `BreakerOpen`
    """Another process owns this spool."""
