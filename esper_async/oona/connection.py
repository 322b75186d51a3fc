"""Connections to Redis that never hang, and one jittered gate through which they come back.

redis-py's own defaults retry for a minute and time out blocking reads; ours fail at once and
leave the retrying to those who know what is at stake.
"""

import asyncio
import random
from collections.abc import Callable

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from esper_async.oona.streams import EPOCH_KEY


def connect(url: str, *, timeout_s: float) -> redis.asyncio.Redis:
    """Return a pooled client for short commands; each fails after `timeout_s` without an answer."""
    return _client(url, timeout_s)


def connect_once(url: str, *, timeout_s: float) -> redis.asyncio.Redis:
    """Return a client over a single connection, for a few commands in one task."""
    return _client(url, timeout_s, single=True)


def connect_reader(url: str, *, connect_timeout_s: float) -> redis.asyncio.Redis:
    """Return a client over a single connection without a read time-out, for blocking reads.

    The reader bounds its reads itself: BLOCK plus a margin.
    """
    return _client(url, None, single=True, connect_timeout_s=connect_timeout_s)


def _client(
    url: str,
    timeout_s: float | None,
    *,
    single: bool = False,
    connect_timeout_s: float | None = None,
) -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_url(
        url,
        protocol=2,
        driver_info=None,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s if connect_timeout_s is None else connect_timeout_s,
        retry=Retry(NoBackoff(), 0),
        single_connection_client=single,
    )


class ReconnectGate:
    """Spreads reconnects: exponential back-off with full jitter, up to `cap_s` a pause."""

    def __init__(
        self,
        *,
        cap_s: float,
        base_s: float = 0.05,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._cap_s = cap_s
        self._base_s = base_s
        self._uniform = uniform
        self._failures = 0

    async def pause(self) -> None:
        """Wait after a failure, longer after each."""
        ceiling = min(self._cap_s, self._base_s * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        await asyncio.sleep(self._uniform(0.0, ceiling))

    def passed(self) -> None:
        """Forget earlier failures: a call succeeded."""
        self._failures = 0


def queue_server_identity(pipeline: "redis.asyncio.client.Pipeline", proposal: str) -> None:
    """Queue three commands, whose replies `server_identity` reads, at a transaction's start.

    `proposal` becomes the epoch of a server that has none; it must be a new one each time.
    """
    pipeline.info("server")
    pipeline.set(EPOCH_KEY, proposal, nx=True)
    pipeline.get(EPOCH_KEY)


def server_identity(replies: list[object]) -> str:
    """Name the data that answered: another value means that acknowledged writes may be gone.

    A restart or failover changes the server's run id (the last second of its file may be lost),
    emptying it changes the epoch key.
    """
    information, _, epoch = replies[:3]
    if not isinstance(information, dict) or not isinstance(epoch, bytes):
        raise TypeError(f"not the replies of an identity: {replies[:3]!r}")
    return f"{information['run_id']}/{epoch.decode()}"
